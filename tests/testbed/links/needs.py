"""Marks for tests that need what only some systems allow; where it is missing they skip and say what."""

from __future__ import annotations

import pytest

from testbed.links.capabilities import capabilities, why_not


def needs(backend: str, *what: str) -> pytest.MarkDecorator:
    """Skip unless the back-end can do that here."""
    reason = why_not(backend, what or ("rate",), capabilities())
    return pytest.mark.skipif(reason is not None, reason=str(reason))

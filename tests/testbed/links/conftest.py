"""Fixtures of the tests about devices behind an interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.links import registry
from tests.testbed.links.lan import Lan


@pytest.fixture
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of the test's own: every LAN has an interface of the same name."""
    monkeypatch.setattr(registry, "folder", lambda: tmp_path)


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A host and one device."""
    with Lan() as made:
        yield made

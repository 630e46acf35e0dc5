"""What every program owes to a user's mistake, and a place to make one in."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from click.testing import Result


def check_refused(result: Result, said: str) -> None:
    """One line on standard error that says it, nothing on standard output, and exit status 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.fullmatch(r"error: [^\n]*\n", result.stderr)
    assert said in result.stderr


def enter(directory: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the directory, with no settings of that prefix in the environment."""
    for name in list(os.environ):
        if name.startswith(prefix):
            monkeypatch.delenv(name)
    monkeypatch.chdir(directory)

"""The targets by name, imported when they are asked for, so that a fuzzer can instrument what they import."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

TARGETS = ("packet", "wire", "frame")


def target(name: str) -> Callable[[bytes], set[str]]:
    """The function `run` of a target."""
    return cast(Callable[[bytes], set[str]], importlib.import_module(f"tests.fuzz.{name}").run)

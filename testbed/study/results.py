"""The results of studies: one JSON line per finished run, appended whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitcom.errors import DataError

Line = dict[str, Any]
FIELDS: dict[str, type] = {"key": str, "study": str, "method": str, "place": dict, "settings": dict, "summary": dict}
VALID = "valid: a line of `splitcom study run`"


def read(path: Path) -> tuple[list[Line], int]:
    """All lines of a results file, and how many bytes at its end are no whole line (of a writer that was killed).

    Raises DataError for a line that is no result; a file that does not exist is an OSError.
    """
    whole, end, rest = path.read_bytes().rpartition(b"\n")
    lines = [_line(text, f"{path}: line {number}") for number, text in enumerate((whole + end).splitlines(), 1)]
    return lines, len(rest)


def latest(paths: Iterable[Path]) -> list[Line]:
    """The lines of several files; of lines with the same key the last one."""
    by_key: dict[str, Line] = {}
    for path in paths:
        by_key |= {line["key"]: line for line in read(path)[0]}
    return list(by_key.values())


class Appender:
    """A results file that this process alone may append to."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on the disk."""
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)


@contextmanager
def appending(path: Path) -> Iterator[Appender]:
    """Open a results file, made if need be, to append to it; an unfinished last line is cut off.

    Raises DataError when another process has it open to append, or when it holds anything but results.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{path}: another study is at work on it; valid: a file of its own for each") from None
        _, unfinished = read(path)
        if unfinished:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - unfinished)
            os.fsync(descriptor)
        yield Appender(path, descriptor)
    finally:
        os.close(descriptor)


def _line(text: bytes, where: str) -> Line:
    try:
        line = json.loads(text)
    except ValueError:
        raise DataError(f"{where}: not JSON; {VALID}") from None
    if not isinstance(line, dict):
        raise DataError(f"{where}: no table in it; {VALID}")
    for name, kind in FIELDS.items():
        if not isinstance(line.get(name), kind):
            raise DataError(f"{where}: {name} is missing or no {kind.__name__}; {VALID}")
    return line

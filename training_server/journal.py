"""What a run on the server leaves to be plotted: `metrics.jsonl`, and the seconds that went into each activity."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


class Journal:
    """Rows of several types in one JSON-lines file, each written at once, with the seconds since the start in `t_s`."""

    def __init__(self, path: Path) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._started = time.perf_counter()
        self._file: TextIO = path.open("a", buffering=1, encoding="utf-8")

    def row(self, row: str, **values: Any) -> None:
        """Append one row of the named type."""
        elapsed = round(time.perf_counter() - self._started, 4)
        self._file.write(json.dumps({"row": row, "t_s": elapsed, **values}) + "\n")

    @contextmanager
    def wall(self, activity: str) -> Iterator[None]:
        """Count the seconds of the block."""
        clock = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - clock

    @contextmanager
    def cpu(self, activity: str) -> Iterator[None]:
        """Count the CPU seconds of the block's thread, so that neighbours on the machine do not count."""
        clock = time.thread_time()
        yield
        self.seconds[activity] += time.thread_time() - clock

    def close(self) -> None:
        """Close the file; harmless when called again."""
        self._file.close()

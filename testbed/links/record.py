"""`links.jsonl` in a run directory: everything that happened to the links of a run, a line each."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.links import traces
from testbed.links.profile import WAYS, LinkProfile

NAME, TRACES = "links.jsonl", "traces"
FLUSH_S = 1.0  # a rate may change ten times a second and link


class Record:
    """The open file as a context manager; `t_s` of a line counts from the beginning of training."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._began_s: float | None = None
        self._flushed_s = 0.0

    def __enter__(self) -> Record:
        self._file = (self._directory / NAME).open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self) -> None:
        """Training begins."""
        self._began_s = time.monotonic()
        self.tell("begin")

    def tell(self, event: str, **values: Any) -> None:
        """Add a line."""
        now_s = time.monotonic()
        since = None if self._began_s is None else round(now_s - self._began_s, 3)
        line = {"event": event, "time": round(time.time(), 3), "t_s": since, **values}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        if event != "rate" or now_s - self._flushed_s > FLUSH_S:
            self._file.flush()
            self._flushed_s = now_s

    def keep_traces(self, profiles: Mapping[str, LinkProfile]) -> dict[str, str]:
        """Copy the trace files of profiles into the run directory, for they may change; the copies by original path."""
        kept: dict[str, str] = {}
        for path in {
            path for profile in profiles.values() for way in WAYS if (path := traces.file(getattr(profile, way).rate))
        }:
            content = Path(path).read_bytes()
            copy = Path(TRACES) / f"{hashlib.sha256(content).hexdigest()[:12]}-{Path(path).name}"
            (self._directory / TRACES).mkdir(exist_ok=True)
            shutil.copyfile(path, self._directory / copy)
            kept[path] = str(copy)
        return kept

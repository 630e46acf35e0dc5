"""What this process takes of the machine, as Linux tells it."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessUsage:
    """Seconds of processor time since the start, bytes of resident memory and open file descriptors now."""

    cpu_s: float
    resident_bytes: int
    open_files: int


def process_usage() -> ProcessUsage | None:
    """None where the kernel does not tell."""
    own = Path("/proc/self")
    try:
        pages = int((own / "statm").read_text().split()[1])
        open_files = len(os.listdir(own / "fd"))
    except OSError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessUsage(used.ru_utime + used.ru_stime, pages * resource.getpagesize(), open_files)

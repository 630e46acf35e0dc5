"""What a process uses, as the kernel counts it: CPU time, memory and file descriptors."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from broker.errors import BrokerError


class Usage:
    """Figures of the process `pid`, read anew at each call; BrokerError once it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_s(self) -> float:
        """CPU seconds of all its threads, to the nanosecond: POSIX's clock of another process."""
        clock = ctypes.c_int()
        if ctypes.CDLL(None).clock_getcpuclockid(self.pid, ctypes.byref(clock)):
            raise self._ended()
        try:
            return time.clock_gettime(clock.value)
        except OSError:
            raise self._ended() from None

    def resident_bytes(self) -> int:
        """Memory that is resident now."""
        return self._status("VmRSS:")

    def peak_bytes(self) -> int:
        """The most memory that has been resident since the process began."""
        return self._status("VmHWM:")

    def descriptors(self) -> int:
        """How many file descriptors are open."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except FileNotFoundError:
            raise self._ended() from None

    def _status(self, key: str) -> int:
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            lines = []
        for line in lines:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
        raise self._ended()

    def _ended(self) -> BrokerError:
        return BrokerError(f"process {self.pid} has ended")

"""Waking up on time: a timer of the kernel for an event loop, whose own timers round up to a millisecond."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import os
import struct
from collections.abc import Callable

SLACK_S = 50e-6  # what is due this soon is done now: setting the timer again takes as long
_CLOCK_MONOTONIC, _NONBLOCK, _ABSOLUTE = 1, 0o4000, 1
_SPECIFICATION = struct.Struct("qqqq")  # itimerspec: interval and value, seconds and nanoseconds each


class Alarm:
    """Calls functions at times of the loop's clock, which is CLOCK_MONOTONIC as the timer's is.

    Where there is no timerfd (it is Linux's) the loop's own timers serve.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        if hasattr(self._libc, "timerfd_create"):
            self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK)
            self._loop.add_reader(self._descriptor, self._ring)

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Call once at a time, or as soon after it as can be."""
        heapq.heappush(self._due, (time_s, next(self._order), call))
        if self._due[0][0] == time_s:
            self._set(time_s)

    def _set(self, time_s: float) -> None:
        if self._descriptor < 0:
            self._loop.call_at(time_s, self._run)
            return
        time_s = max(time_s, 1e-9)  # zero would turn the timer off
        value = _SPECIFICATION.pack(0, 0, int(time_s), int(time_s % 1 * 1e9))
        self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, value, None)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        self._run()

    def _run(self) -> None:
        now_s = self._loop.time() + SLACK_S
        while self._due and self._due[0][0] <= now_s:
            heapq.heappop(self._due)[2]()
        if self._due:
            self._set(self._due[0][0])

    def close(self) -> None:
        """Give the timer back; nothing is called any more."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
        self._due.clear()

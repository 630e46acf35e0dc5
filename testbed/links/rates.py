"""How fast a link is over time: constant, in steps, or as a Mahimahi trace. No clock: times are seconds from its start.

Sizes are layer 2: a full packet is 1514 bytes (1500 of IP). A `Rate` tells when a packet that begins to be sent at a
time has left (`finish`), and how much could pass between two times (`bytes_between`), which is what a measurement is
held against.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

L2_HEADER_BYTES = 14
MTU_BYTES = 1500
FRAME_BYTES = MTU_BYTES + L2_HEADER_BYTES
# TCP payload in a full packet with timestamps: what a goodput is multiplied by to be a rate of layer 2.
PAYLOAD_BYTES = 1448
WIRE_PER_PAYLOAD = FRAME_BYTES / PAYLOAD_BYTES


class Rate(Protocol):
    """A rate over time. `varies` says whether it ever changes; `mean_bps` is that of one period, or of the end."""

    varies: bool
    mean_bps: float

    def finish(self, start_s: float, size: float) -> float:
        """When `size` bytes that begin to be sent at `start_s` have left; inf where they never will.

        Called with times that never decrease.
        """
        ...

    def sent(self, start_s: float, now_s: float) -> float:
        """Of the packet that `finish` was asked for last, with its start, the bytes that have left by now."""
        ...

    def bytes_between(self, start_s: float, end_s: float) -> float:
        """The bytes that a link with always something to send passes from start to end."""
        ...


class Constant:
    """The same rate at all times, in bit/s; inf does not hold anything back."""

    varies = False

    def __init__(self, bps: float) -> None:
        self.mean_bps = bps

    def finish(self, start_s: float, size: float) -> float:
        """See `Rate`."""
        return start_s + size * 8 / self.mean_bps

    def sent(self, start_s: float, now_s: float) -> float:
        """See `Rate`."""
        return self.bytes_between(start_s, now_s)

    def bytes_between(self, start_s: float, end_s: float) -> float:
        """See `Rate`."""
        return self.mean_bps * (end_s - start_s) / 8 if end_s > start_s else 0.0


class Steps:
    """Constant between changes: `rates_bps[i]` from `times_s[i]` on, the last one for good. 0 is an outage.

    Raises ValueError for times that do not begin at 0 or do not increase, negative rates, and rates that are all 0.
    """

    varies = True

    def __init__(self, times_s: Sequence[float], rates_bps: Sequence[float]) -> None:
        if not times_s or times_s[0] != 0 or len(times_s) != len(rates_bps):
            raise ValueError("the first step has to be at 0 s")
        for earlier, later in pairwise(times_s):
            if later <= earlier:
                raise ValueError(f"times have to increase, and {later:g} s comes after {earlier:g} s")
        if min(rates_bps) < 0:
            raise ValueError(f"{min(rates_bps):g} bit/s is negative")
        if max(rates_bps) == 0:
            raise ValueError("all rates are 0")
        self.times_s, self.rates_bps = tuple(times_s), tuple(rates_bps)
        self.mean_bps = self.rates_bps[-1]
        self._passed = [0.0]  # bytes up to the beginning of each step
        for index in range(1, len(times_s)):
            span = times_s[index] - times_s[index - 1]
            self._passed.append(self._passed[-1] + rates_bps[index - 1] * span / 8)

    def finish(self, start_s: float, size: float) -> float:
        """See `Rate`."""
        index = max(0, bisect.bisect_right(self.times_s, start_s) - 1)
        left, now = size * 8.0, start_s
        while True:
            bps = self.rates_bps[index]
            end = self.times_s[index + 1] if index + 1 < len(self.times_s) else math.inf
            # A billionth of a bit is rounding, not load that would have to wait for the next step.
            if bps and left <= bps * (end - now) + 1e-6:
                return now + left / bps
            if end == math.inf:
                return math.inf
            left, now, index = left - bps * (end - now), end, index + 1

    def sent(self, start_s: float, now_s: float) -> float:
        """See `Rate`."""
        return self.bytes_between(start_s, now_s)

    def bytes_between(self, start_s: float, end_s: float) -> float:
        """See `Rate`."""
        return self._until(end_s) - self._until(start_s)

    def _until(self, time_s: float) -> float:
        if time_s <= 0:
            return 0.0
        index = bisect.bisect_right(self.times_s, time_s) - 1
        return self._passed[index] + self.rates_bps[index] * (time_s - self.times_s[index]) / 8


class Mahimahi:
    """A Mahimahi trace: at each of its milliseconds the link may pass 1500 bytes of IP; repeated at its last one.

    Packets share an opportunity and continue in the next; an opportunity that finds nothing to send is lost. After
    the trace format of Netravali et al., "Mahimahi: Accurate Record-and-Replay for HTTP", USENIX ATC 2015.

    Raises ValueError for times that decrease, negative times, and a trace whose last time is 0.
    """

    varies = True

    def __init__(self, times_ms: Sequence[int]) -> None:
        for earlier, later in pairwise(times_ms):
            if later < earlier:
                raise ValueError(f"times must not decrease, and {later} ms comes after {earlier} ms")
        if not times_ms or times_ms[0] < 0 or times_ms[-1] == 0:
            raise ValueError("its last time is its period and has to be above 0 ms")
        self.times_ms = tuple(times_ms)
        self.period_ms = times_ms[-1]
        self.mean_bps = len(times_ms) * FRAME_BYTES * 8 / (self.period_ms / 1000)
        self._next, self._left = 0, float(MTU_BYTES)  # the opportunity in use, and what is left of it
        self._used: list[tuple[float, float]] = []  # by the last packet: opportunities, and how much of each

    def finish(self, start_s: float, size: float) -> float:
        """See `Rate`."""
        first = self._index(start_s)
        if first > self._next:
            self._next, self._left = first, float(MTU_BYTES)
        left = max(0.0, size - L2_HEADER_BYTES)
        self._used = []
        while left > self._left:
            self._used.append((self._at_s(self._next), self._left))
            left -= self._left
            self._next, self._left = self._next + 1, float(MTU_BYTES)
        self._used.append((self._at_s(self._next), left))
        self._left -= left
        return max(start_s, self._at_s(self._next))

    def sent(self, start_s: float, now_s: float) -> float:
        """See `Rate`."""
        return sum(size for at_s, size in self._used if at_s <= now_s)

    def bytes_between(self, start_s: float, end_s: float) -> float:
        """See `Rate`; an opportunity exactly at the end is not in."""
        return FRAME_BYTES * max(0, self._index(end_s) - self._index(start_s))

    def _at_s(self, index: int) -> float:
        turn, place = divmod(index, len(self.times_ms))
        return (turn * self.period_ms + self.times_ms[place]) / 1000

    def _index(self, time_s: float) -> int:
        """The first opportunity at or after a time."""
        time_ms = time_s * 1000 - 1e-6  # rounding must not miss an opportunity that is due now
        turn = max(0, math.ceil(time_ms / self.period_ms) - 1)  # the last opportunity of a turn is at its very end
        return turn * len(self.times_ms) + bisect.bisect_left(self.times_ms, time_ms - turn * self.period_ms)

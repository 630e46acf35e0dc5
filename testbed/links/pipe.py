"""One way of a link as a model: packets go in, and come out when the link would have delivered them.

No clock and no I/O: the caller says what time it is. The emulators drive it with real time, tests and analysis with
any. The order of what happens to a packet: it may be lost; it finds the queue full and is dropped; it waits its turn;
it is sent at the rate; it is delayed. Serialisation is by a virtual clock, so a caller that wakes up late delivers late
but loses no capacity, and never are two packets delivered out of order.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Generic, TypeVar

from testbed.links.profile import LinkProfile
from testbed.links.rates import L2_HEADER_BYTES
from testbed.links.traces import Way

T = TypeVar("T")


class Pipe(Generic[T]):
    """One way of a link from `start_s` on, by the caller's clock.

    `credit_s` is how far back a packet that finds the link idle may begin to be sent: for a caller that sees packets
    later than they came.
    """

    def __init__(self, profile: LinkProfile, way: Way, start_s: float, seed: int = 0, credit_s: float = 0.0) -> None:
        self.way, self._credit_s = way, credit_s
        self._random = random.Random(seed)
        self._waiting: deque[tuple[int, float, T]] = deque()  # size, when it came; the first is being sent
        self._flying: deque[tuple[float, T]] = deque()
        # Of the packet in hand: when it has left, since when the rate has been what it is, and what was left then.
        self._sent_s = self._began_s = start_s
        self._left = 0.0
        self._last_s = -math.inf
        self.waiting_bytes = self.packets = self.bytes = self.lost = self.dropped = 0
        self._take(profile, start_s)

    def _take(self, profile: LinkProfile, now_s: float) -> None:
        direction = getattr(profile, self.way)
        self._rate = profile.rate(self.way)
        self._start_s = now_s
        self._delay_s, self._jitter_s = direction.delay_s, direction.jitter_s
        self._queue_bytes = profile.queue_bytes(self.way)
        self._is_lost = direction.losses.draws(self._random) if direction.losses.mean else None

    def change(self, profile: LinkProfile, now_s: float) -> None:
        """Go on with another profile, whose times count from now; what waits, waits on."""
        self._advance(now_s)
        passed = self._rate.sent(self._began_s - self._start_s, now_s - self._start_s)
        self._take(profile, now_s)
        if self._waiting:
            self._send(now_s, max(0.0, self._left - passed))

    def put(self, now_s: float, size: int, item: T) -> bool:
        """Take a packet of `size` bytes of IP in; False where it is lost or dropped."""
        self._advance(now_s)
        if self._is_lost is not None and self._is_lost():
            self.lost += 1
            return False
        size += L2_HEADER_BYTES
        if self._waiting and self.waiting_bytes + size > self._queue_bytes:
            self.dropped += 1
            return False
        self._waiting.append((size, now_s, item))
        self.waiting_bytes += size
        if len(self._waiting) == 1:
            self._begin(max(self._sent_s, now_s - self._credit_s))
            self._advance(now_s)
        return True

    def take(self, now_s: float) -> list[T]:
        """The packets that have been delivered by now, in the order in which they came."""
        self._advance(now_s)
        delivered = []
        while self._flying and self._flying[0][0] <= now_s:
            delivered.append(self._flying.popleft()[1])
        return delivered

    @property
    def next_s(self) -> float:
        """When there is something to take again, at the earliest; inf where nothing is on its way."""
        if self._flying:
            return self._flying[0][0]
        return self._sent_s if self._waiting else math.inf

    @property
    def sent_s(self) -> float:
        """When the packet that is being sent has left; inf where none will, and where none waits."""
        return self._sent_s if self._waiting else math.inf

    def _begin(self, at_s: float) -> None:
        """Begin to send the first packet that waits."""
        self._send(at_s, self._waiting[0][0])

    def _send(self, at_s: float, left: float) -> None:
        """Send what is left of the first packet from a time on."""
        self._began_s, self._left = at_s, left
        self._sent_s = self._start_s + self._rate.finish(at_s - self._start_s, left)

    def _advance(self, now_s: float) -> None:
        """Send everything that has left by now."""
        while self._waiting and self._sent_s <= now_s:
            size, came_s, item = self._waiting.popleft()
            self.waiting_bytes -= size
            self.packets += 1
            self.bytes += size
            delay_s = self._delay_s
            if self._jitter_s:
                delay_s = max(0.0, self._random.gauss(delay_s, self._jitter_s))
            # With credit it may have left before it was seen; it is not delivered before that all the same.
            self._last_s = max(self._last_s, max(self._sent_s, came_s) + delay_s)
            self._flying.append((self._last_s, item))
            if self._waiting:
                self._begin(self._sent_s)

"""One way of a link in real time: a `Pipe` whose packets are handed on when they are due."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from testbed.links.alarm import SLACK_S, Alarm
from testbed.links.pipe import Pipe
from testbed.links.profile import LinkProfile
from testbed.links.traces import Way

T = TypeVar("T")
SAMPLES = 20_000
RECHECK_S = 0.05  # a change of profile may send a packet sooner than it was to be


class Flow(Generic[T]):
    """Packets in, and out through `deliver` when the profile's link would have delivered them.

    `deliver` says whether it could hand the packet on; one that it could not counts as dropped. `lateness_s` is a
    bounded sample of how long after they were due packets were handed on, the first of each batch.
    """

    def __init__(
        self, alarm: Alarm, profile: LinkProfile, way: Way, seed: int, deliver: Callable[[T], bool], credit_s: float = 0
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._alarm, self._deliver = alarm, deliver
        self.pipe: Pipe[T] = Pipe(profile, way, self._loop.time(), seed, credit_s)
        self._armed_s = math.inf
        self._refused = 0
        self.lateness_s: deque[float] = deque(maxlen=SAMPLES)

    def put(self, size: int, item: T) -> None:
        """Take a packet of `size` bytes of IP in."""
        now_s = self._loop.time()
        self._note(now_s)
        self.pipe.put(now_s, size, item)
        self._hand_on(now_s)

    def change(self, profile: LinkProfile) -> None:
        """Go on with another profile."""
        now_s = self._loop.time()
        self.pipe.change(profile, now_s)
        self._hand_on(now_s)

    def _wake(self) -> None:
        self._armed_s = math.inf
        now_s = self._loop.time()
        self._note(now_s)
        self._hand_on(now_s)

    def _note(self, now_s: float) -> None:
        due_s = self.pipe.next_s
        if due_s <= now_s:
            self.lateness_s.append(now_s - due_s)

    async def until_sent(self) -> None:
        """Return when the packet that is being sent has left, or soon after the profile was changed.

        Not before something is handed on: that comes a delay later, and the link would be idle until then.
        """
        now_s = self._loop.time()
        wait_s = min(self.pipe.sent_s - now_s, RECHECK_S)
        if wait_s > 0:
            done = asyncio.Event()
            self._alarm.at(now_s + wait_s, done.set)
            await done.wait()
        self._hand_on(self._loop.time())

    def _hand_on(self, now_s: float) -> None:
        for item in self.pipe.take(now_s + SLACK_S):
            if not self._deliver(item):
                self._refused += 1
        next_s = self.pipe.next_s
        if next_s < self._armed_s:
            self._armed_s = next_s
            self._alarm.at(next_s, self._wake)

    def counts(self) -> dict[str, Any]:
        """What has passed and what has not: bytes of layer 2."""
        pipe = self.pipe
        return {
            "packets": pipe.packets,
            "l2_bytes": pipe.bytes,
            "lost": pipe.lost,
            "dropped": pipe.dropped + self._refused,
            "waiting_bytes": pipe.waiting_bytes,
        }

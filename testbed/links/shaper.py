"""One way of a link in the kernel: an HTB class with its queue on a device. The parameters are measured ones.

Rate and ceiling are equal; the burst is what 1 ms of the rate lets through (a larger one makes short transfers too
fast, a smaller one the timer too slow); the queue holds bytes; quantum is one packet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from testbed.links import operations as op
from testbed.links.loss import GilbertElliott
from testbed.links.operations import Operation
from testbed.links.profile import LinkProfile
from testbed.links.rates import FRAME_BYTES, MTU_BYTES
from testbed.links.traces import Way

STEP_S = 0.1  # how often a rate that varies is set
# HTB sleeps until a packet could go at the rate before: slower than a packet a step, it would sleep through a rise.
FLOOR_BPS = FRAME_BYTES * 8 / STEP_S
BURST_S, BURST_BYTES_MIN = 0.001, 1600
NETEM_PACKETS_MIN = 1000


@dataclass(frozen=True)
class Shaper:
    """Class `minor` of an HTB root on a device of a namespace."""

    namespace: str
    device: str
    minor: int
    way: Way

    def build(self, profile: LinkProfile) -> list[Operation]:
        """What makes the class and its queue."""
        return [self._class("add", start_bps(profile, self.way)), self._queue("add", profile)]

    def change(self, old: LinkProfile, new: LinkProfile) -> list[Operation]:
        """What makes the class follow another profile without losing what waits in it."""
        made = [self._class("change", start_bps(new, self.way))]
        same = netem_options(old, self.way) is None, netem_options(new, self.way) is None
        # A queue of another kind has to take the place of the old one, with what is in it.
        return [*made, self._queue("change" if same[0] == same[1] else "replace", new)]

    def _class(self, verb: str, bps: float) -> Operation:
        rate = kernel_rate(bps)
        return op.htb_class(verb, self.namespace, self.device, self.minor, rate, burst(rate))

    def _queue(self, verb: str, profile: LinkProfile) -> Operation:
        options = netem_options(profile, self.way)
        if options is not None:
            return op.netem(verb, self.namespace, self.device, self.minor, options)
        return op.bfifo(verb, self.namespace, self.device, self.minor, profile.queue_bytes(self.way))

    def facts(self, profile: LinkProfile) -> dict[str, Any]:
        """What is set, for the record."""
        rate = kernel_rate(start_bps(profile, self.way))
        return {"rate_bps": 8 * rate, "burst_bytes": burst(rate), "queue_bytes": profile.queue_bytes(self.way)}


def start_bps(profile: LinkProfile, way: Way) -> float:
    """The rate of a link at its beginning: of its first step where it varies."""
    rate = profile.rate(way)
    return max(FLOOR_BPS, rate.bytes_between(0.0, STEP_S) * 8 / STEP_S) if rate.varies else rate.mean_bps


def kernel_rate(bps: float) -> int:
    """A rate in whole bytes per second, as the kernel takes it; inf is the fastest that fits."""
    return op.LINE_RATE if math.isinf(bps) else max(1, min(op.LINE_RATE, round(bps / 8)))


def burst(rate: int) -> int:
    """The burst in bytes at a rate in bytes per second."""
    return max(int(rate * BURST_S), BURST_BYTES_MIN)


def netem_options(profile: LinkProfile, way: Way) -> str | None:
    """The options of netem for delay, jitter and loss; None where the link has none of these.

    Jitter in netem reorders packets unless netem is given a rate; the link's own is given, and HTB's stays in force.
    """
    direction = getattr(profile, way)
    delay_s, jitter_s, losses = direction.delay_s, direction.jitter_s, direction.losses
    if not (delay_s or jitter_s or losses.mean):
        return None
    mean_bps = profile.rate(way).mean_bps
    packets = NETEM_PACKETS_MIN
    if not math.isinf(mean_bps):
        in_flight = mean_bps / 8 * (delay_s + jitter_s) + profile.queue_bytes(way)
        packets = max(packets, math.ceil(2 * in_flight / MTU_BYTES))
    words = [f"limit {packets}"]
    if delay_s or jitter_s:
        words.append(f"delay {delay_s * 1e6:.0f}us")
        if jitter_s:
            words.append(f"{jitter_s * 1e6:.0f}us distribution normal")
    if losses.mean:
        words.append(f"loss {_loss(losses)}")
    if jitter_s and not math.isinf(mean_bps):
        words.append(f"rate {mean_bps:.0f}bit")
    return " ".join(words)


def _loss(losses: GilbertElliott) -> str:
    """A loss model in netem's words; its gemodel takes what the good and the bad state let through as 1-k and 1-h."""
    if losses.memory == 0 and (losses.bad, losses.good) == (1.0, 0.0):
        return f"{100 * losses.p:.6g}%"
    return f"gemodel {100 * losses.p:.6g}% {100 * losses.r:.6g}% {100 * losses.bad:.6g}% {100 * losses.good:.6g}%"

"""One way of a link in the kernel: an HTB class with its queue on a device. The parameters are measured ones.

Rate and ceiling are equal; the burst is what 1 ms of the rate lets through (a larger one makes short transfers too
fast, a smaller one the timer too slow); the queue holds bytes; quantum is one packet. Delay, jitter and loss are left
to netem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from testbed.links import operations as op
from testbed.links.loss import GilbertElliott
from testbed.links.operations import Operation
from testbed.links.profile import LinkProfile
from testbed.links.rates import FRAME_BYTES
from testbed.links.traces import Way

STEP_S = 0.1  # how often a rate that varies is set
# HTB sleeps until a packet could go at the rate before: slower than a packet a step, it would sleep through a rise.
FLOOR_BPS = FRAME_BYTES * 8 / STEP_S
BURST_S, BURST_BYTES_MIN = 0.001, 1600
UNDER_WAY_PACKETS = 100_000  # that netem delays at once, where the queue comes after it: a second at 1.2 Gbit/s
JITTER_SIGMAS = 3
_LIMIT_MAX = (1 << 32) - 1  # of a queue, in bytes or packets: what fits the kernel's 32 bits


@dataclass(frozen=True)
class Shaper:
    """Class `minor` of an HTB on a device that carries one way of one link and nothing else.

    netem, where the link needs it, stands before the HTB: packets are lost and delayed, and then wait in a queue of
    bytes as they do without it.
    """

    namespace: str
    device: str
    minor: int
    way: Way

    def build(self, profile: LinkProfile) -> list[Operation]:
        """What makes all of it."""
        options = netem_options(profile, self.way, UNDER_WAY_PACKETS)
        before = [] if options is None else [self._netem("add", options, root=True)]
        htb = op.add_htb(self.namespace, self.device, self.minor, below=op.NETEM | self.minor if before else 0)
        return [*before, htb, self._class("add", profile), self._queue("add", profile)]

    def change(self, old: LinkProfile, new: LinkProfile) -> list[Operation]:
        """What makes it follow another profile; what waits stays, unless netem comes or goes."""
        options = netem_options(new, self.way, UNDER_WAY_PACKETS)
        if self.remakes(old, new):
            return [op.delete_qdisc(self.namespace, self.device, "root"), *self.build(new)]
        before = [] if options is None else [self._netem("change", options, root=True)]
        return [*before, self._class("change", new), self._queue("change", new)]

    def remakes(self, old: LinkProfile, new: LinkProfile) -> bool:
        """Whether a change makes the class anew, which then counts from 0 again."""
        return _emulates(old, self.way) != _emulates(new, self.way)

    def facts(self, profile: LinkProfile) -> dict[str, Any]:
        """What is set, for the record."""
        rate = kernel_rate(start_bps(profile, self.way))
        facts = {"rate_bps": 8 * rate, "burst_bytes": burst(rate), "queue_bytes": queue_bytes(profile, self.way)}
        options = netem_options(profile, self.way, UNDER_WAY_PACKETS)
        return facts if options is None else facts | {"netem": options}

    def _class(self, verb: str, profile: LinkProfile) -> Operation:
        rate = kernel_rate(start_bps(profile, self.way))
        return op.htb_class(verb, self.namespace, self.device, self.minor, rate, burst(rate))

    def _queue(self, verb: str, profile: LinkProfile) -> Operation:
        return op.bfifo(verb, self.namespace, self.device, self.minor, queue_bytes(profile, self.way))

    def _netem(self, verb: str, options: str, root: bool) -> Operation:
        return op.netem(verb, self.namespace, self.device, self.minor, options, root)


@dataclass(frozen=True)
class SharedShaper(Shaper):
    """Class `minor` of an HTB root that stands already, beside the classes of other links.

    netem takes the place of the queue here, for nothing else on the device is for this link alone. It counts packets
    and not bytes, and what is under way counts as well: its limit is `netem_packets`.
    """

    def build(self, profile: LinkProfile) -> list[Operation]:
        """What makes the class and its queue."""
        return [self._class("add", profile), self._leaf("add", profile)]

    def change(self, old: LinkProfile, new: LinkProfile) -> list[Operation]:
        """What makes it follow another profile; what waits stays, unless netem comes or goes."""
        # A queue of another kind has to take the place of the old one, with what is in it.
        verb = "change" if _emulates(old, self.way) == _emulates(new, self.way) else "replace"
        return [self._class("change", new), self._leaf(verb, new)]

    def remakes(self, old: LinkProfile, new: LinkProfile) -> bool:
        """See `Shaper`: the class stays."""
        return False

    def facts(self, profile: LinkProfile) -> dict[str, Any]:
        """What is set, for the record."""
        facts, packets = super().facts(profile), netem_packets(profile, self.way)
        options = netem_options(profile, self.way, packets)
        return facts if options is None else facts | {"netem": options, "netem_packets": packets}

    def _leaf(self, verb: str, profile: LinkProfile) -> Operation:
        options = netem_options(profile, self.way, netem_packets(profile, self.way))
        return self._queue(verb, profile) if options is None else self._netem(verb, options, root=False)


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


def queue_bytes(profile: LinkProfile, way: Way) -> int:
    """The profile's queue in bytes, as the kernel takes it."""
    return min(profile.queue_bytes(way), _LIMIT_MAX)


def netem_packets(profile: LinkProfile, way: Way) -> int:
    """How many packets netem may hold as the queue of a class: full ones, as the profile's queue and its delay hold.

    netem has no limit but this one. Packets that are smaller than full ones fill it with fewer bytes.
    """
    direction = getattr(profile, way)
    under_way = kernel_rate(profile.rate(way).mean_bps) * (direction.delay_s + JITTER_SIGMAS * direction.jitter_s)
    packets: int = math.ceil((queue_bytes(profile, way) + under_way) / FRAME_BYTES)
    return min(packets, _LIMIT_MAX)


def netem_options(profile: LinkProfile, way: Way, packets: int) -> str | None:
    """The options of netem for delay, jitter and loss; None where the link has none of these.

    Jitter in netem reorders packets unless netem has a rate, whichever: then none overtakes the one before. It gets
    the fastest, since the link's own, which may vary, is HTB's.
    """
    if not _emulates(profile, way):
        return None
    direction = getattr(profile, way)
    words = [f"limit {packets}"]
    if direction.delay_s or direction.jitter_s:
        words.append(f"delay {direction.delay_s * 1e6:.0f}us")
    if direction.jitter_s:
        words.append(f"{direction.jitter_s * 1e6:.0f}us distribution normal")
    if direction.losses.mean:
        words.append(f"loss {_loss(direction.losses)}")
    if direction.jitter_s:
        words.append(f"rate {8 * op.LINE_RATE}bit")
    return " ".join(words)


def _emulates(profile: LinkProfile, way: Way) -> bool:
    """Whether one way of a link needs netem."""
    direction = getattr(profile, way)
    return bool(direction.delay_s or direction.jitter_s or direction.losses.mean)


def _loss(losses: GilbertElliott) -> str:
    """A loss model in netem's words; its gemodel takes what the good and the bad state let through as 1-k and 1-h."""
    if losses.memory == 0 and (losses.bad, losses.good) == (1.0, 0.0):
        return f"{100 * losses.p:.6g}%"
    return f"gemodel {100 * losses.p:.6g}% {100 * losses.r:.6g}% {100 * losses.bad:.6g}% {100 * losses.good:.6g}%"

"""What a link was measured to be, held against what it was configured to be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.links.loss import GilbertElliott
from testbed.links.profile import Direction, LinkProfile
from testbed.links.rates import FRAME_BYTES, L2_HEADER_BYTES, WIRE_PER_PAYLOAD, Rate
from testbed.links.traces import Way

BOUND, BOUND_NETNS = 0.05, 0.02  # of the rate, and of the delay
DELAY_BOUND_S = 0.0025  # timers and waking up, where 5 % of the delay is less
PACKETS_BOUND = 2  # what a token bucket and the first packet may make of a short transfer
EARLY_S = 2.0  # of a link whose rate varies: what a message meets
SIGMAS = 3.3  # one good link in a thousand fails
GRAIN_S = 0.001  # what timers and waking up add to a standard deviation
PROBE_BYTES = L2_HEADER_BYTES + 20 + 32 + 8  # a small message of TCP with timestamps, on layer 2


@dataclass(frozen=True)
class Check:
    """One figure of one way of a client's link: rates in bit/s of layer 2, delays and jitters in ms, losses in percent.

    `what` is rate, delay, jitter or loss.
    """

    client: str
    direction: Way
    what: str
    configured: float
    measured: float
    ok: bool
    allowed_percent: float

    @property
    def error_percent(self) -> float:
        """How far the measured value is from the configured one, in percent of it."""
        if self.configured == 0:
            return 0.0 if self.measured == 0 else math.inf
        return 100 * (self.measured / self.configured - 1)

    def table(self) -> dict[str, Any]:
        """The check as JSON has it."""
        return {
            "client": self.client,
            "direction": self.direction,
            "what": self.what,
            "configured": float(f"{self.configured:.9g}"),  # times of clocks leave more digits than there are
            "measured": round(self.measured, 6),
            "error_percent": round(self.error_percent, 3),
            "allowed_percent": round(self.allowed_percent, 3),
            "ok": self.ok,
        }


def rate(client: str, way: Way, profile: LinkProfile, answer: Mapping[str, Any], set_s: float, bound: float) -> Check:
    """The rate of a transfer, from its first piece to its last, against what the link passes in that time.

    `set_s` is when the profile's times began. The goodput of TCP is taken to layer 2 by 1514/1448.
    """
    if answer["last"] <= answer["first"]:
        return Check(client, way, "rate", profile.rate(way).mean_bps, 0.0, False, 100 * bound)
    passed = (answer["bytes"] - answer["first_bytes"]) * WIRE_PER_PAYLOAD
    span = answer["last"] - answer["first"]
    expected = profile.rate(way).bytes_between(answer["first"] - set_s, answer["last"] - set_s)
    configured = 8 * expected / span if span else math.inf
    measured = 8 * passed / span if span else math.inf
    allowed = bound + PACKETS_BOUND * FRAME_BYTES / passed if passed else math.inf
    ok = expected > 0 and abs(measured / configured - 1) <= allowed
    return Check(client, way, "rate", configured, measured, ok, 100 * allowed)


def early_bps(rate: Rate, seconds: float) -> float:
    """The rate of a link in its first seconds; a packet a second where it passes nothing in them."""
    passed = rate.bytes_between(0.0, seconds) if rate.varies else rate.mean_bps / 8 * seconds
    return max(passed, FRAME_BYTES) * 8 / seconds


def delay(client: str, way: Way, profile: LinkProfile, times_s: list[float]) -> Check:
    """The median time of a small message one way, against the link's delay and what sending the message takes."""
    direction = getattr(profile, way)
    configured = direction.delay_s
    configured += PROBE_BYTES * 8 / early_bps(profile.rate(way), EARLY_S)
    measured = statistics.median(times_s)
    # The median of n draws is off by about 1.25 sigma / sqrt(n); three of that is not the emulation's error.
    spread = 3 * 1.25 * direction.jitter_s / math.sqrt(len(times_s))
    allowed = max(BOUND * configured, DELAY_BOUND_S) + spread
    ok = abs(measured - configured) <= allowed
    percent = 100 * allowed / configured if configured else math.inf
    return Check(client, way, "delay", 1000 * configured, 1000 * measured, ok, percent)


def jitter(client: str, way: Way, direction: Direction, times_s: list[float]) -> Check:
    """The standard deviation of the times of small messages one way, against that of the link's delay.

    Delays are never below 0, so a jitter that is large beside the delay is configured to be less than it says. What is
    allowed is what chance makes of a sample of a normal distribution.
    """
    configured = _deviation(direction.delay_s, direction.jitter_s)
    measured = statistics.stdev(times_s)
    freedom = len(times_s) - 1
    allowed = configured * (math.sqrt(_chi_square(freedom, SIGMAS) / freedom) - 1) + GRAIN_S
    ok = abs(measured - configured) <= allowed
    return Check(client, way, "jitter", 1000 * configured, 1000 * measured, ok, 100 * allowed / configured)


def _deviation(mean: float, sigma: float) -> float:
    """The standard deviation of a normal distribution whose values below 0 count as 0."""
    normal = statistics.NormalDist()
    above, density = normal.cdf(mean / sigma), normal.pdf(mean / sigma)
    first = mean * above + sigma * density
    second = (mean**2 + sigma**2) * above + mean * sigma * density
    return math.sqrt(second - first**2)


def _chi_square(freedom: int, sigmas: float) -> float:
    """A quantile of the chi-square distribution, by that of the normal one, after Wilson and Hilferty (1931)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + sigmas * math.sqrt(spread)) ** 3


def loss(client: str, way: Way, losses: GilbertElliott, sent: int, received: int) -> Check:
    """The share of datagrams that did not arrive, against the model's.

    A share of few packets varies: what is allowed is SIGMAS standard deviations of a chain with the model's
    memory. A burst model may therefore be far off in a short check, and is not blamed for it.
    """
    mean, memory = losses.mean, losses.memory
    in_bad = losses.p / (losses.p + losses.r) if losses.p + losses.r else 0.0
    # Of a mean over n draws of a chain: the variance of one, and twice all covariances, which fall off geometrically.
    covariances = in_bad * (1 - in_bad) * (losses.bad - losses.good) ** 2 * (memory / (1 - memory) if memory < 1 else 0)
    sigma = math.sqrt(max(0.0, mean * (1 - mean) + 2 * covariances) / sent)
    allowed = SIGMAS * sigma + 1 / sent
    measured = 1 - received / sent
    ok = abs(measured - mean) <= allowed
    return Check(client, way, "loss", 100 * mean, 100 * measured, ok, 100 * allowed / mean if mean else math.inf)

"""Packet loss: independent (Bernoulli), or in bursts after Gilbert (1960) and Elliott (1963)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from broker.errors import SettingsError
from testbed.links import units

Draw = Callable[[], bool]
VALID = "valid: a share such as 1%, or gemodel:P:R[:BAD[:GOOD]] in shares, such as gemodel:0.25%:25%"


@dataclass(frozen=True)
class GilbertElliott:
    """Two states, good and bad, that may change before each packet; each loses packets at its own share.

    `p` is the chance to go from good to bad, `r` that from bad to good, `bad` and `good` are the shares of packets
    lost in these states. With p = 1 - r nothing is remembered: that is independent loss of the share p.
    """

    p: float
    r: float
    bad: float = 1.0
    good: float = 0.0

    @property
    def mean(self) -> float:
        """The share of packets that is lost in the long run."""
        if self.p + self.r == 0:
            return self.good
        in_bad = self.p / (self.p + self.r)
        return in_bad * self.bad + (1 - in_bad) * self.good

    @property
    def memory(self) -> float:
        """The correlation of the states of two packets in a row: 0 where losses are independent."""
        return 1 - self.p - self.r

    def draws(self, generator: random.Random) -> Draw:
        """A function that says of each packet in turn whether it is lost; its first state is drawn by the long run."""
        p, r, bad, good = self.p, self.r, self.bad, self.good
        uniform = generator.random
        in_bad = uniform() < (p / (p + r) if p + r else 0.0)

        def lost() -> bool:
            nonlocal in_bad
            in_bad = uniform() >= r if in_bad else uniform() < p
            return uniform() < (bad if in_bad else good)

        return lost


def independent(share: float) -> GilbertElliott:
    """Independent loss of a share of the packets."""
    return GilbertElliott(share, 1 - share)


NONE = independent(0.0)


def parse(key: str, text: str) -> GilbertElliott:
    """Loss from `1%`, or from `gemodel:P:R[:BAD[:GOOD]]`; SettingsError names the key."""
    name, *parts = text.split(":")
    if name.strip().lower() != "gemodel":
        if not text.strip().endswith("%"):
            raise SettingsError(f"{key}: {text!r}; {VALID}")
        return independent(units.share(key, text))
    if not 2 <= len(parts) <= 4:
        raise SettingsError(f"{key}: {text!r}; {VALID}")
    shares = [units.share(key, part) for part in parts]
    return GilbertElliott(*shares)


def text(loss: GilbertElliott) -> str:
    """What `parse` makes the same loss from."""
    if loss == independent(loss.p):
        return units.share_text(loss.p)
    return "gemodel:" + ":".join(units.share_text(share) for share in (loss.p, loss.r, loss.bad, loss.good))

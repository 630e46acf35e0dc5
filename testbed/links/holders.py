"""Profiles of devices that a process holds for a while: it plays a rate that varies, or measures, and gives them back.

A held link has in the record a profile without what varies, and `held`: whose it is and what it was before. So what a
process that was killed held is known, and does not have to be played to be replaced.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from testbed.links import registry, units
from testbed.links.base import MAHIMAHI
from testbed.links.errors import LinkError
from testbed.links.profile import WAYS, LinkProfile, from_table
from testbed.links.rates import Steps
from testbed.links.trees import Link, profile_of


@dataclass(frozen=True)
class Holder:
    """A process, the profile that it gave a link, in words, and the table of the one before (None: not shaped)."""

    pid: int
    started: int
    text: str
    before: dict[str, Any] | None

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return registry.start_of(self.pid) == self.started

    @property
    def mine(self) -> bool:
        """Whether it is this process."""
        return self.pid == os.getpid() and self.alive

    @property
    def note(self) -> str:
        """Who holds it, for the user."""
        return f"held by process {self.pid}" if self.alive else f"left by process {self.pid}, which has ended"


def holder(link: Link | None) -> Holder | None:
    """Who holds a link of the record."""
    return Holder(**link["held"]) if link and "held" in link else None


def configured(link: Link) -> LinkProfile | None:
    """The profile that a link of the record has when nobody holds it; None where it is not shaped then."""
    held = holder(link)
    if held is None:
        return profile_of(link)
    return from_table(held.before, Path()) if held.before is not None else None


def words(link: Link) -> str:
    """The profile that a link of the record has now, as its text."""
    held = holder(link)
    return held.text if held is not None else profile_of(link).text()


def link(old: Link | None, name: str, minor: int, address: str, profile: LinkProfile, holding: bool) -> dict[str, Any]:
    """A device for the record, in the place of what it was.

    Raises LinkError where another process holds it; `name` is what it is called there.
    """
    held = holder(old)
    if held is not None and held.alive and not held.mine:
        raise LinkError(f"{name} is held by process {held.pid}; valid: when that has ended, or `splitcom link clear`")
    made = {"address": address, "minor": minor, "profile": standing(profile).table()}
    if not holding:
        return made
    before = held.before if held is not None else dict(old["profile"]) if old else None
    pid = os.getpid()
    return made | {"held": asdict(Holder(pid, registry.start_of(pid), profile.text(), before))}


def check_standing(profile: LinkProfile, holding: bool = False) -> None:
    """LinkError for a profile that no device can have, or only while a process is `holding` it."""
    for way in WAYS:
        rate = getattr(profile, way).rate
        if MAHIMAHI in profile.needs and rate.startswith(f"{MAHIMAHI}:"):
            raise LinkError(
                f"{way}: {rate}: back-end host does not emulate mahimahi; valid: a constant rate, or steps or csv:FILE "
                "with --hold"
            )
        if profile.rate(way).varies and not holding:
            raise LinkError(
                f"{way}: the rate {rate} varies, and no process stays to set it; valid: --hold, which stays and plays "
                "it, or a constant rate"
            )


def standing(profile: LinkProfile) -> LinkProfile:
    """The profile with the highest of rates that vary, which holds nothing back that they pass, and the same queues."""
    ways = {}
    for way in WAYS:
        rate, ways[way] = profile.rate(way), getattr(profile, way)
        if isinstance(rate, Steps):
            peak = units.rate_text(max(1.0, min(units.RATE_MAX_BPS, max(rate.rates_bps))))
            ways[way] = replace(ways[way], rate=peak, queue=units.size_text(profile.queue_bytes(way)))
    return LinkProfile(**ways)

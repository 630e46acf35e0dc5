"""What a scenario says about its links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from broker.congestion import AUTO, resolve
from broker.errors import SettingsError
from testbed.links import profile, units
from testbed.links.profile import LinkProfile

EVERY = "all"  # in place of a client's name


@dataclass(frozen=True)
class Change:
    """A profile that a client's link (or every one) gets at a time, in seconds from the beginning of training."""

    at_s: float
    client: str
    profile: LinkProfile


@dataclass(frozen=True)
class LinksConfig:
    """The links of a run.

    `profile` is that of every client, `clients` are entries `CLIENT: PROFILE` for those that differ, `timeline`
    entries `TIME CLIENT: PROFILE` for changes while training goes on (CLIENT may be `all`). `congestion` is TCP's
    congestion control at both ends, named because the system's own differs from host to host (`auto` is cubic where
    this user may set it); `calibrate_s` the length of the transfers before a run, 0 for none; `seed` decides which
    packets are lost.
    """

    backend: Literal["auto", "none", "netns", "tun", "proxy"] = "auto"
    profile: str = ""
    clients: tuple[str, ...] = ()
    timeline: tuple[str, ...] = ()
    congestion: str = AUTO
    calibrate_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._profile()
        self._clients()
        self.changes()
        if not 0 <= self.calibrate_s <= 600:
            raise ValueError(f"calibrate_s: {self.calibrate_s:g} is out of range; valid: 0 to 600")

    @property
    def congestion_control(self) -> str:
        """The congestion control by its name; empty is the system's own."""
        return resolve(self.congestion)

    @property
    def any(self) -> bool:
        """Whether any link is ever shaped; back-end `none` takes no notice of profiles."""
        if self.backend == "none":
            return False
        profiles = [self._profile(), *self._clients().values(), *(change.profile for change in self.changes())]
        return any(each.needs for each in profiles)

    def profiles(self, names: Sequence[str]) -> dict[str, LinkProfile]:
        """The profile that each client begins with; SettingsError for an entry of a client that there is not."""
        given = self._clients()
        for name in [*given, *(change.client for change in self.changes() if change.client != EVERY)]:
            if name not in names:
                key = "links.clients" if name in given else "links.timeline"
                raise SettingsError(f"{key}: {name!r} is no client of the run; valid: {names[0]} to {names[-1]}")
        return {name: given.get(name, self._profile()) for name in names}

    def needs(self, names: Sequence[str]) -> frozenset[str]:
        """What a back-end has to be able to do for all profiles that a run will see."""
        seen = [*self.profiles(names).values(), *(change.profile for change in self.changes())]
        return frozenset().union(*(each.needs for each in seen))

    def changes(self) -> list[Change]:
        """The timeline in order."""
        changes = []
        for entry in self.timeline:
            head, separator, text = entry.partition(":")
            words = head.split()
            if not separator or len(words) != 2:
                raise ValueError(f"timeline: {entry!r}; valid: TIME CLIENT: PROFILE, such as '60s agent0: up=1mbit'")
            try:
                at_s = units.time("timeline", words[0])
            except SettingsError as error:
                raise ValueError(str(error)) from None
            changes.append(Change(at_s, words[1], _parse("timeline", entry, text)))
        return sorted(changes, key=lambda change: change.at_s)

    def _profile(self) -> LinkProfile:
        return _parse("profile", self.profile, self.profile) if self.profile else profile.UNSHAPED

    def _clients(self) -> dict[str, LinkProfile]:
        found: dict[str, LinkProfile] = {}
        for entry in self.clients:
            name, separator, text = entry.partition(":")
            name = name.strip()
            if not separator or not name or " " in name or name in found:
                raise ValueError(f"clients: {entry!r}; valid: CLIENT: PROFILE, each client once")
            found[name] = _parse("clients", entry, text)
        return found


def _parse(key: str, entry: str, text: str) -> LinkProfile:
    try:
        return profile.parse(text)
    except SettingsError as error:
        raise ValueError(f"{key}: {error}") from None

"""A link profile: rate, delay, jitter, loss and queue of a client's link, each way on its own.

A profile is written as words, `up=5mbit down=20mbit delay=30ms jitter=5ms loss=1% queue=100ms`, or as a TOML file with
the tables `up` and `down`. The first word may be the name of a preset or a file, and the others then change it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from broker.errors import SettingsError
from broker.settings import load_toml, merge
from testbed.links import loss, traces, units
from testbed.links.loss import GilbertElliott
from testbed.links.rates import Rate

WAYS: tuple[traces.Way, ...] = ("up", "down")
QUEUE_BYTES_MIN = 30_000  # TCP's first flight, twice


@dataclass(frozen=True)
class Direction:
    """One way of a link, as text in tc's units; `delay` is one way, `jitter` the standard deviation of it.

    `queue` is how much may wait: a time at the mean rate, or bytes. Raises SettingsError that names the key.
    """

    rate: str = traces.UNLIMITED
    delay: str = "0s"
    jitter: str = "0s"
    loss: str = "0%"
    queue: str = "100ms"

    @property
    def delay_s(self) -> float:
        """The delay in seconds, without what waiting and sending take."""
        return units.time("delay", self.delay)

    @property
    def jitter_s(self) -> float:
        """The jitter in seconds."""
        return units.time("jitter", self.jitter)

    @property
    def losses(self) -> GilbertElliott:
        """How packets are lost."""
        return loss.parse("loss", self.loss)

    def queue_bytes(self, mean_bps: float) -> int:
        """The queue in bytes at a rate; a time comes to QUEUE_BYTES_MIN at least, without which TCP cannot start."""
        if not units.is_time(self.queue):
            return units.size("queue", self.queue)
        if mean_bps == float("inf"):
            mean_bps = units.RATE_MAX_BPS
        return max(int(mean_bps / 8 * units.time("queue", self.queue)), QUEUE_BYTES_MIN)

    def check(self, prefix: str) -> None:
        """Raise SettingsError, naming the key, for what cannot be read."""
        units.time(f"{prefix}delay", self.delay)
        units.time(f"{prefix}jitter", self.jitter)
        loss.parse(f"{prefix}loss", self.loss)
        if not units.is_time(self.queue):
            units.size(f"{prefix}queue", self.queue)
        elif units.time(f"{prefix}queue", self.queue) == 0:
            raise SettingsError(f"{prefix}queue: {self.queue!r} is out of range; valid: above 0s, or a size")


KEYS = tuple(key.name for key in fields(Direction))
VALID = f"valid: up, down, {', '.join(KEYS)}, or one way of them, such as up.{KEYS[1]}"


@dataclass(frozen=True)
class LinkProfile:
    """Both ways of a link."""

    up: Direction = field(default_factory=Direction)
    down: Direction = field(default_factory=Direction)

    def __post_init__(self) -> None:
        for way in WAYS:
            getattr(self, way).check(f"{way}.")
            self.rate(way)

    def rate(self, way: traces.Way) -> Rate:
        """A rate of its own for one way: some remember what passed."""
        return traces.parse(way, getattr(self, way).rate, way)

    def queue_bytes(self, way: traces.Way) -> int:
        """The queue of one way in bytes."""
        direction: Direction = getattr(self, way)
        return direction.queue_bytes(self.rate(way).mean_bps)

    @property
    def needs(self) -> frozenset[str]:
        """What a back-end has to be able to do: of `rate`, `varying`, `mahimahi`, `delay`, `jitter` and `loss`."""
        needs = set()
        for way in WAYS:
            direction, rate = getattr(self, way), self.rate(way)
            needs |= {"rate"} if rate.mean_bps != float("inf") else set()
            needs |= {"varying"} if rate.varies else set()
            needs |= {"mahimahi"} if direction.rate.startswith("mahimahi:") else set()
            needs |= {"delay"} if direction.delay_s else set()
            needs |= {"jitter"} if direction.jitter_s else set()
            needs |= {"loss"} if direction.losses.mean else set()
        return frozenset(needs)

    def text(self) -> str:
        """The profile in words, without what is as in a link that is not shaped."""
        plain, words = Direction(), []
        for way in WAYS:
            direction = getattr(self, way)
            for key in KEYS:
                value = getattr(direction, key)
                if value != getattr(plain, key):
                    words.append(shlex.quote(f"{way}={value}" if key == "rate" else f"{way}.{key}={value}"))
        return " ".join(words) or traces.UNLIMITED

    def table(self) -> dict[str, Any]:
        """The profile as `from_table` reads it."""
        return {way: {key: getattr(getattr(self, way), key) for key in KEYS} for way in WAYS}


UNSHAPED = LinkProfile()


def parse(text: str) -> LinkProfile:
    """A profile from words; SettingsError names the word that is wrong, and what is valid."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"{text!r} is no link profile: {error}; {VALID}") from None
    if words[:1] == [traces.UNLIMITED]:
        del words[0]
    table = _base(words.pop(0)) if words and "=" not in words[0] else {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not value:
            raise SettingsError(f"{word!r} is no part of a link profile; {VALID}")
        table = merge(table, _entry(key, value))
    return from_table(table, Path())


def _entry(key: str, value: str) -> dict[str, Any]:
    """The layer that `key=value` makes."""
    if key in WAYS:
        return {key: {"rate": value}}
    if key in KEYS:
        return {way: {key: value} for way in WAYS}
    way, _, name = key.partition(".")
    if way not in WAYS or name not in KEYS:
        raise SettingsError(f"{key}: unknown key of a link profile; {VALID}")
    return {way: {name: value}}


def _base(name: str) -> dict[str, Any]:
    """The table of a preset or a file."""
    path = presets().get(name)
    if path is None:
        if not (name.endswith(".toml") or "/" in name):
            raise SettingsError(
                f"link profile {name!r} is unknown; valid: {', '.join(presets())}, a path to a file, or words such as "
                "up=5mbit down=20mbit"
            )
        path = Path(name)
    table = load_toml(path)
    for told in ("description", "source"):
        table.pop(told, None)
    try:
        return from_table(table, path.parent).table()
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def from_table(table: Mapping[str, Any], folder: Path) -> LinkProfile:
    """A profile from the tables `up` and `down`; trace files are looked for from `folder`.

    Raises SettingsError that names the key that is wrong.
    """
    ways = {}
    for way, values in table.items():
        if way not in WAYS or not isinstance(values, Mapping):
            raise SettingsError(f"{way}: unknown key of a link profile; valid: the tables up and down")
        for key, value in values.items():
            if key not in KEYS:
                raise SettingsError(f"{way}.{key}: unknown key of a link profile; valid: {', '.join(KEYS)}")
            if not isinstance(value, str):
                raise SettingsError(f"{way}.{key}: {value!r}; valid: text with its unit, such as '5mbit' or '30ms'")
        direction = Direction(**values)
        ways[way] = replace(direction, rate=traces.absolute(direction.rate, folder))
    return LinkProfile(**ways)


def presets() -> dict[str, Path]:
    """The profiles that come with the package, by name; each file says where its figures come from."""
    folder = Path(str(resources.files("testbed") / "links" / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}

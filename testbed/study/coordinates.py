"""Where runs stand in a study: names and values, and the conditions that pick some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from splitcom.errors import ConfigError, choices

T = TypeVar("T")
Coordinates = Mapping[str, str]


def matching(items: Sequence[tuple[Coordinates, T]], conditions: Iterable[str]) -> list[T]:
    """The items whose coordinates meet all `KEY=VALUE` conditions; of several with one key, any.

    Raises ConfigError for a key that no item has and for a value that fits none.
    """
    wanted: dict[str, set[str]] = {}
    for condition in conditions:
        key, separator, value = condition.partition("=")
        if not separator:
            raise ConfigError(f"--only: {condition!r}; valid: KEY=VALUE, for example method=splitlora")
        wanted.setdefault(key, set()).add(value)
    for key, values in wanted.items():
        known = {coordinates[key] for coordinates, _ in items if key in coordinates}
        if not known:
            keys = {name for coordinates, _ in items for name in coordinates}
            raise ConfigError(f"--only: {key!r} is unknown; {choices(keys)}")
        for value in sorted(values - known):
            raise ConfigError(f"--only: {key}={value} fits no run; {choices(known)}")
    return [item for at, item in items if all(at.get(key) in values for key, values in wanted.items())]


def varying(items: Sequence[Coordinates]) -> list[str]:
    """The names whose value is not the same in all items, in a stable order."""
    names = dict.fromkeys(name for item in items for name in item)
    return [name for name in names if len({item.get(name) for item in items}) > 1]

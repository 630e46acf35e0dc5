"""The recipe of a run: the settings that decide what comes out of it, and when two recipes are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from broker.settings import as_table
from testbed.scenario import Scenario

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("splitcom", "broker", "edge_agent", "training_server", "testbed")
# Names, paths and threads differ from machine to machine without changing what is measured.
ELSEWHERE = ("name", "agent_threads", "server_threads", "data.path")


def recipe(scenario: Scenario) -> dict[str, Any]:
    """The settings by dotted key; a policy file stands for what is in it."""
    settings = {key: value for key, value in flat(as_table(scenario)).items() if key not in ELSEWHERE}
    policy = settings.get("control.policy")
    if policy:
        settings["control.policy"] = _content(Path(policy))
    return settings


def digest(settings: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that name a recipe."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def same(recorded: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    """Whether a recorded run still is what the plan asks for.

    A setting that did not exist when the run was recorded must have its default now; one that is gone does not count.
    """
    defaults = recipe(Scenario())
    return all(recorded.get(key, defaults[key]) == value for key, value in planned.items())


def code_digest() -> str:
    """Ten hexadecimal digits that name the source code as it is on disk now."""
    state = hashlib.blake2b(digest_size=5)
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        state.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return state.hexdigest()


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as tables in tables, which is shorter to write down."""
    table: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return table


def flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key; the keys of the table may be dotted already."""
    return dict(_flat(table, ""))


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _content(path: Path) -> str:
    """What identifies a file's content; its name where there is no such file, which the run itself will refuse."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return path.name

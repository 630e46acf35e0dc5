"""A finished run: the directory that `splitcom run` left behind, checked before torch is imported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import SettingsError
from broker.settings import build, from_assignments, load_toml, merge
from splitcom.base import check_base
from splitcom.errors import PartitionError
from testbed import micro
from testbed.progress import Progress
from testbed.runner import build_micro
from testbed.scenario import Scenario

VALID = "valid: a run directory that `splitcom run` left at its end"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# The flags with which a run finds on another machine what it was made from.
FLAGS = {"model": "model.base", "data": "data.path"}


@dataclass(frozen=True)
class FinishedRun:
    """A run directory and the scenario that it was made from, with what the command line changes of it."""

    directory: Path
    scenario: Scenario

    @property
    def adapter(self) -> Path:
        """The directory of the exported adapter."""
        return self.directory / "adapter"


def open_run(
    directory: Path,
    progress: Progress,
    flags: Mapping[str, str | None],
    assignments: Iterable[str] = (),
    needs_base: bool = True,
) -> FinishedRun:
    """The run in a directory; `flags` by the names of FLAGS, and `key=value` assignments, change its settings.

    Where the base is not needed it is neither looked for nor built.

    Raises SettingsError for a directory that is no run, for a run that did not finish, and for a setting that cannot
    be; PartitionError for a base that is not there.
    """
    if not directory.is_dir():
        raise SettingsError(f"{directory} is no directory; {VALID}")
    config = directory / "config.toml"
    if not config.is_file():
        raise SettingsError(f"{directory} has no config.toml; {VALID}")
    for name in ADAPTER_FILES:
        if not (directory / "adapter" / name).is_file():
            raise SettingsError(f"{directory} has no adapter/{name}, its run's end: {told_end(directory)}; {VALID}")
    given = [f"{FLAGS[name]}={value}" for name, value in flags.items() if value is not None]
    scenario = read_config(config, from_assignments([*assignments, *given]))
    if not needs_base:
        return FinishedRun(directory, scenario)
    if scenario.model.base == micro.NAME:
        scenario = scenario.with_base(str(build_micro(progress)))
    try:
        check_base(scenario.model)
    except PartitionError as error:
        raise PartitionError(f"{error} (--model names another)") from None
    return FinishedRun(directory, scenario)


def read_config(path: Path, changes: Mapping[str, Any]) -> Scenario:
    """The effective scenario that a run directory holds, changed; SettingsError names the file where it is at fault."""
    table = load_toml(path)
    try:
        scenario = build(Scenario, table)
    except SettingsError as error:
        if not changes:
            raise SettingsError(f"{path}: {error}") from None
    return build(Scenario, merge(table, changes)) if changes else scenario


def told_end(directory: Path) -> str:
    """How the run ended by its own summary, in words for a message."""
    try:
        return str(json.loads((directory / "summary.json").read_text(encoding="utf-8"))["end"])
    except (OSError, ValueError, KeyError, TypeError):
        return "not told"

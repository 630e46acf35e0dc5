"""A plan: a TOML file that says which runs a study is made of; every run is scenarios and settings, nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.errors import SettingsError
from broker.settings import from_assignments, load_toml
from splitcom.errors import choices
from testbed.scenario import Scenario, read
from testbed.study.coordinates import matching
from testbed.study.recipe import flat, recipe

FLAGS = {"seed": "training.seed", "clients": "clients", "epochs": "training.epochs"}  # axes that need no scenario
STUDY_KEYS = ("name", "description", "scenarios", "set")
LAYER_KEYS = ("scenarios", "set")
RUN_KEYS = ("name", "scenarios", "set", "where")
NAMES = "valid: 1 to 64 of the characters A-Z a-z 0-9 _ . + -"


@dataclass(frozen=True)
class Layer:
    """Scenarios by name or path, and settings as text by dotted key, that are laid over what came before."""

    scenarios: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def over(self, below: Layer) -> Layer:
        """Both layers, this one on top."""
        return Layer(below.scenarios + self.scenarios, {**below.settings, **self.settings})


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: a method at one place, which is its data set, shape and seed and the values of all axes."""

    study: str
    method: str
    place: Mapping[str, str]
    layer: Layer
    scenario: Scenario

    @property
    def key(self) -> str:
        """What the run is called in every file of the study, whatever the order in the plan."""
        return f"{self.study}/{self.method}/" + ",".join(f"{name}={self.place[name]}" for name in sorted(self.place))

    def recipe(self) -> dict[str, Any]:
        """The settings that decide what comes out."""
        return recipe(self.scenario)

    def arguments(self) -> list[str]:
        """What `splitcom run` takes to carry it out, but for the paths and threads of a machine."""
        settings = (f"{key}={value}" for key, value in self.layer.settings.items())
        return [*self.layer.scenarios, *(word for setting in settings for word in ("--set", setting))]


@dataclass(frozen=True)
class Plan:
    """A study's name and its runs, in the order in which they are carried out."""

    name: str
    description: str
    runs: tuple[PlannedRun, ...]

    def only(self, conditions: Iterable[str]) -> list[PlannedRun]:
        """The runs that meet the conditions; see `coordinates.matching`."""
        return matching([({"method": run.method, **run.place}, run) for run in self.runs], conditions)


def load(path: Path) -> Plan:
    """Read a plan and every scenario that it names; SettingsError names the file and what is wrong in it."""
    table = load_toml(path)
    try:
        return _plan(table)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _plan(table: Mapping[str, Any]) -> Plan:
    _known(table, ("study", "axes", "runs"), "")
    head = _table(table.get("study", {}), "study")
    _known(head, STUDY_KEYS, "study.")
    name = _name(head.get("name"), "study.name")
    common = _layer(head, "study").over(Layer(settings={"transport": "memory"}))
    axes = {axis: _axis(axis, values) for axis, values in _table(table.get("axes", {}), "axes").items()}
    entries = table.get("runs")
    if not isinstance(entries, list) or not entries:
        raise SettingsError("runs: none; valid: one or more tables [[runs]]")
    runs: dict[str, PlannedRun] = {}
    for places in itertools.product(*(values.items() for values in axes.values())):
        chosen = dict(zip(axes, (value for value, _ in places), strict=True))
        below = common
        for _, layer in places:
            below = layer.over(below)
        for number, entry in enumerate(entries, 1):
            run = _run(name, f"runs: entry {number}", _table(entry, f"runs: entry {number}"), chosen, axes, below)
            if run is not None and runs.setdefault(run.key, run) is not run:
                raise SettingsError(f"{run.key}: planned twice; valid: another name, or a where that tells them apart")
    if not runs:
        raise SettingsError("runs: no axis values fit any where; valid: at least one run")
    _distinct(runs.values())
    return Plan(name, str(head.get("description", "")), tuple(runs.values()))


def _run(
    study: str,
    label: str,
    entry: Mapping[str, Any],
    chosen: Mapping[str, str],
    axes: Mapping[str, Mapping[str, Layer]],
    below: Layer,
) -> PlannedRun | None:
    """The run of an entry at the chosen values of the axes; None where its `where` leaves it out."""
    _known(entry, RUN_KEYS, f"{label}: ")
    method = _name(entry.get("name"), f"{label}: name")
    label = f"run {method}"
    own = _layer(entry, label)
    for axis, wanted in _table(entry.get("where", {}), f"{label}: where").items():
        if axis not in axes:
            raise SettingsError(f"{label}: where: axis {axis!r} is unknown; {choices(axes)}")
        values = [
            _text(value, f"{label}: where.{axis}") for value in (wanted if isinstance(wanted, list) else [wanted])
        ]
        for value in values:
            if value not in axes[axis]:
                raise SettingsError(f"{label}: where.{axis}: {value!r} is unknown; {choices(axes[axis])}")
        if chosen[axis] not in values:
            return None
    layer = own.over(below)
    try:
        scenario = read(layer.scenarios, from_assignments(f"{key}={value}" for key, value in layer.settings.items()))
    except SettingsError as error:
        raise SettingsError(f"{label}: {error}") from None
    facts = {"data": scenario.data.set, "shape": scenario.model.shape, "seed": str(scenario.training.seed)}
    return PlannedRun(study, method, {**facts, **chosen}, layer, scenario)


def _distinct(runs: Iterable[PlannedRun]) -> None:
    """Two runs that come to the same are a mistake: most often a run whose `set` undoes an axis."""
    seen: dict[str, str] = {}
    for run in runs:
        other = seen.setdefault(repr(run.recipe()), run.key)
        if other != run.key:
            raise SettingsError(f"{run.key}: the same settings as {other}; valid: runs that differ")


def _axis(axis: str, values: Any) -> dict[str, Layer]:
    """The layer of each value of an axis, from a list of values or from a table of layers."""
    where = f"axes.{_name(axis, 'axes')}"
    if isinstance(values, list) and values:
        texts = [_text(value, where) for value in values]
        if len(set(texts)) < len(texts):
            raise SettingsError(f"{where}: a value twice; valid: distinct values")
        if axis in FLAGS:
            return {text: Layer(settings={FLAGS[axis]: text}) for text in texts}
        if all(isinstance(value, str) for value in values):
            return {text: Layer((text,)) for text in texts}
        raise SettingsError(
            f"{where}: {values[0]!r} is no scenario; "
            f"valid: names of scenarios, tables with {_join(LAYER_KEYS)}, or values of an axis named {_join([*FLAGS])}"
        )
    if isinstance(values, Mapping) and values:
        for value, layer in values.items():
            _known(_table(layer, f"{where}.{value}"), LAYER_KEYS, f"{where}.{value}.")
        return {value: _layer(layer, f"{where}.{value}") for value, layer in values.items()}
    raise SettingsError(f"{where}: {values!r}; valid: a list of values, or a table with {_join(LAYER_KEYS)} for each")


def _layer(table: Mapping[str, Any], where: str) -> Layer:
    scenarios = table.get("scenarios", [])
    if not isinstance(scenarios, list) or not all(isinstance(name, str) for name in scenarios):
        raise SettingsError(f"{where}: scenarios: {scenarios!r}; valid: a list of names or paths")
    settings = flat(_table(table.get("set", {}), f"{where}: set"))
    return Layer(tuple(scenarios), {key: _text(value, f"{where}: set.{key}") for key, value in settings.items()})


def _text(value: Any, where: str) -> str:
    """A TOML value as a command line gives it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, list):
        return ",".join(_text(item, where) for item in value)
    raise SettingsError(f"{where}: {value!r}; valid: text, a number, true, false or a list of these")


def _name(value: Any, where: str) -> str:
    text = value if isinstance(value, str) else ""
    if not 1 <= len(text) <= 64 or not all(c.isascii() and (c.isalnum() or c in "_.+-") for c in text):
        raise SettingsError(f"{where}: {value!r}; {NAMES}")
    return text


def _known(table: Mapping[str, Any], keys: Sequence[str], prefix: str) -> None:
    for key in table:
        if key not in keys:
            raise SettingsError(f"{prefix}{key}: unknown key; valid: {_join(keys)}")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: {value!r} is no table")
    return value


def _join(keys: Sequence[str]) -> str:
    return ", ".join(keys)

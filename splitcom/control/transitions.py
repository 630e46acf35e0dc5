"""Transitions: what learning controllers learn from, one JSON line each.

The two parts of the reward are kept apart, so that a policy can be trained for any weight of the bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from splitcom.config import STREAMS, StreamConfig, StreamName
from splitcom.control.base import Observation
from splitcom.control.environment import FEATURES, STATE_SIZE, Improvement, State, one_hot, reward_of, state_of
from splitcom.errors import DataError, choices

TRANSITIONS_FILE = "transitions.jsonl"
KEYS = ("stream", "state", "action", "improvement", "upload_ratio", "next_state")


@dataclass(frozen=True)
class Transition:
    """One action on one stream: what was seen, what was done, what it earned, what was seen then.

    `action` in [-1, 1]; `improvement` and `upload_ratio` are the reward's parts.
    """

    stream: StreamName
    state: State
    action: float
    improvement: float
    upload_ratio: float
    next_state: State

    def reward(self, byte_weight: float) -> float:
        """What the action earned at this weight of the bytes."""
        return reward_of(self.improvement, self.upload_ratio, byte_weight)


class Recorder:
    """Joins a run's actions to transitions: each is closed by the stream's next observation."""

    def __init__(self, streams: Mapping[StreamName, StreamConfig]) -> None:
        self.transitions: list[Transition] = []
        self._streams = streams
        self._improvement = {name: Improvement() for name in streams}
        self._open: dict[StreamName, tuple[State, float]] = {}

    def close(self, observations: Sequence[Observation]) -> list[Transition]:
        """The transitions that these observations end; none at the first."""
        closed = []
        for seen in observations:
            improvement = self._improvement[seen.stream](seen.loss)
            if seen.stream in self._open:
                state, action = self._open.pop(seen.stream)
                after = self.state(seen)
                closed.append(Transition(seen.stream, state, action, improvement, seen.upload_ratio, after))
        self.transitions += closed
        return closed

    def begin(self, seen: Observation, action: float) -> None:
        """An action in [-1, 1] was chosen for what was seen."""
        self._open[seen.stream] = (self.state(seen), action)

    def state(self, seen: Observation) -> State:
        """What the policy sees of an observation."""
        return state_of(seen, self._streams[seen.stream])


def mean_reward(transitions: Sequence[Transition], byte_weight: float) -> float | None:
    """The mean over transitions, or None without any."""
    rewards = [transition.reward(byte_weight) for transition in transitions]
    return sum(rewards) / len(rewards) if rewards else None


def write(path: Path, transitions: Iterable[Transition], byte_weight: float) -> None:
    """Write the file anew; six significant digits, and the reward at `byte_weight` for whoever reads it by eye."""
    lines = []
    for transition in transitions:
        row = asdict(transition) | {"reward": transition.reward(byte_weight)}
        lines.append(json.dumps({key: _short(value) for key, value in row.items()}, separators=(",", ":")) + "\n")
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> list[Transition]:
    """The transitions of a file or of a run directory; raises DataError naming file, line and what is valid."""
    file = path / TRANSITIONS_FILE if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"{file}: {reason}; valid: the transitions of a run with control.kind random or ddpg") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_parse(line))
        except (ValueError, OverflowError) as error:
            raise DataError(f"{file}: line {number}: {error}") from None
    return found


def _parse(line: str) -> Transition:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}; valid: an object with {', '.join(KEYS)}")
    if missing := [key for key in KEYS if key not in row]:
        raise ValueError(f"{missing[0]} is missing; valid: an object with {', '.join(KEYS)}")
    if row["stream"] not in STREAMS:
        raise ValueError(f"stream {row['stream']!r} is unknown; {choices(STREAMS)}")
    stream = cast(StreamName, row["stream"])
    return Transition(
        stream,
        _state("state", row["state"], stream),
        _number("action", row["action"], -1, 1),
        _number("improvement", row["improvement"], -1, 1),
        _number("upload_ratio", row["upload_ratio"], 0, 1),
        _state("next_state", row["next_state"], stream),
    )


def _state(key: str, values: Any, stream: StreamName) -> State:
    if not isinstance(values, list) or len(values) != STATE_SIZE:
        raise ValueError(f"{key}: no list of {STATE_SIZE}; valid: {FEATURES} features and a one-hot of the stream")
    state = tuple(_number(key, value, -math.inf, math.inf) for value in values)
    if state[FEATURES:] != one_hot(stream):
        raise ValueError(f"{key}: ends in {values[FEATURES:]}; valid with {stream}: {list(one_hot(stream))}")
    return state


def _number(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{key}: {value!r}; valid: a finite number")
    if not low <= value <= high:
        raise ValueError(f"{key}: {value:g} is out of range; valid: {low:g} to {high:g}")
    return float(value)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return [_short(item) for item in value] if isinstance(value, tuple) else value

"""State, action and reward of the learning controllers, and the transitions that they record."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcom.config import STREAMS, ControlConfig, StreamConfig
from splitcom.control import transitions
from splitcom.control.environment import (
    FEATURES,
    SMOOTHING,
    STATE_SIZE,
    Improvement,
    action_of,
    reward_of,
    state_of,
    threshold_of,
)
from splitcom.control.random import Random
from splitcom.control.transitions import Recorder
from splitcom.errors import DataError
from tests.controls import World, gated_streams, observation

STREAM = StreamConfig(gate="cosine", loose=0.9, tight=1.0)
bounds = st.floats(-1, 1)


def test_the_state_is_what_the_docs_say() -> None:
    state = state_of(observation("gradient_down", threshold=0.975, upload_ratio=0.25, progress=0.75), STREAM)
    assert state == pytest.approx((0.5, 0.25, math.log(20 / 80), math.log(20 / 40), 0.75, 0, 1, 0, 0))
    assert len(state) == STATE_SIZE


@pytest.mark.parametrize("stream", STREAMS)
def test_the_state_tells_streams_apart(stream: str) -> None:
    state = state_of(observation(stream), STREAM)  # type: ignore[arg-type]
    assert [index for index, value in enumerate(state[FEATURES:]) if value] == [STREAMS.index(stream)]  # type: ignore[arg-type]
    assert state[:FEATURES] == state_of(observation("activation_up"), STREAM)[:FEATURES]


@pytest.mark.parametrize("perplexity", [1e300, math.inf, math.nan, 1e-300])
def test_a_state_is_bounded_whatever_perplexity_does(perplexity: float) -> None:
    for changed in ({"perplexity": perplexity}, {"perplexity_before": perplexity}, {"perplexity_previous": perplexity}):
        assert all(abs(value) <= 3 for value in state_of(observation(**changed), STREAM))


def test_perplexity_that_rises_without_end_is_not_taken_for_one_that_falls() -> None:
    state = state_of(observation(perplexity=math.inf), STREAM)
    assert state[2:4] == (3, 3)


@given(bounds, bounds, bounds)
def test_actions_and_thresholds_map_onto_each_other(one: float, other: float, action: float) -> None:
    stream = StreamConfig(loose=min(one, other), tight=max(one, other))
    threshold = threshold_of(action, stream)
    assert stream.loose <= threshold <= stream.tight
    assert -1 <= action_of(threshold, stream) <= 1
    assert threshold_of(action_of(threshold, stream), stream) == pytest.approx(threshold, abs=1e-12)
    if stream.tight - stream.loose > 1e-3:
        assert action_of(threshold, stream) == pytest.approx(action, abs=1e-9)


@pytest.mark.parametrize(("action", "threshold"), [(-1, 0.9), (-7, 0.9), (0, 0.95), (0.5, 0.975), (1, 1), (7, 1)])
def test_an_action_beyond_its_range_is_taken_for_the_end_of_it(action: float, threshold: float) -> None:
    assert threshold_of(action, STREAM) == pytest.approx(threshold)


def test_improvement_is_the_relative_fall_of_the_moving_average() -> None:
    improvement = Improvement()
    assert improvement(4.0) == 0
    assert improvement(2.0) == pytest.approx(SMOOTHING * 2 / 4)
    mean = 4 - SMOOTHING * 2
    assert improvement(5.0) == pytest.approx(SMOOTHING * (mean - 5) / mean)
    mean += SMOOTHING * (5 - mean)
    assert improvement(mean) == pytest.approx(0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_the_worst_and_is_forgotten(loss: float) -> None:
    improvement = Improvement()
    improvement(4.0)
    assert improvement(loss) == -1
    assert improvement(4.0) == 0


def test_the_reward_weighs_bytes_against_improvement() -> None:
    assert reward_of(0.02, 0.5, 0.05) == pytest.approx(-0.005)
    assert reward_of(0.02, 0.5, 0.0) == 0.02


def test_a_transition_joins_an_action_to_the_next_observation_of_its_stream() -> None:
    recorder = Recorder(gated_streams("activation_up", "gradient_down"))
    first = [observation("activation_up", loss=4.0), observation("gradient_down", loss=4.0)]
    assert recorder.close(first) == []
    recorder.begin(first[0], 0.25)
    recorder.begin(first[1], -0.5)
    second = [observation("gradient_down", loss=2.0, upload_ratio=0.1), observation("activation_up", loss=4.0)]
    down, up = recorder.close(second)
    assert (down.stream, down.action, down.upload_ratio) == ("gradient_down", -0.5, 0.1)
    assert (up.stream, up.action, up.improvement, up.upload_ratio) == ("activation_up", 0.25, 0, 0.5)
    assert down.improvement == pytest.approx(SMOOTHING / 2)
    assert (down.state, down.next_state) == (recorder.state(first[1]), recorder.state(second[0]))
    assert down.reward(0.05) == pytest.approx(SMOOTHING / 2 - 0.005)
    assert recorder.close(second) == []


@pytest.mark.parametrize("names", [STREAMS, ("gradient_up",)])
@pytest.mark.parametrize("acts", [1, 2, 9])
def test_every_action_but_the_last_is_recorded_for_every_stream(names: tuple[str, ...], acts: int) -> None:
    streams = gated_streams(*names)  # type: ignore[arg-type]
    controller = Random(ControlConfig(kind="random"), streams, 0)
    World(streams, 0).run(controller, acts)
    assert controller.values()["transitions"] == (acts - 1) * len(names)


def test_random_covers_the_range_evenly_and_records_what_it_did(tmp_path: Path) -> None:
    streams = gated_streams("activation_up", "gradient_down")
    controller = Random(ControlConfig(kind="random"), streams, 0)
    trace = World(streams, 0).run(controller, 400)
    controller.save(tmp_path)
    recorded = transitions.read(tmp_path)
    for name in streams:
        shares = [(thresholds[name] - 0.9) / 0.1 for thresholds in trace]
        counts = [sum(4 * share // 1 == quarter for share in shares) for quarter in range(4)]
        assert min(counts) > 60  # of 100 expected, which is more than four standard deviations below
        actions = [transition.action for transition in recorded if transition.stream == name]
        assert actions == pytest.approx([2 * share - 1 for share in shares[:-1]], abs=1e-5)


def test_a_streams_draws_do_not_depend_on_which_others_are_gated() -> None:
    traces = []
    for names in (("gradient_down",), ("activation_up", "gradient_down")):
        streams = gated_streams(*names)  # type: ignore[arg-type]
        trace = World(streams, 0).run(Random(ControlConfig(kind="random"), streams, 5), 6)
        traces.append([thresholds["gradient_down"] for thresholds in trace])
    assert traces[0] == traces[1]


def test_recorded_transitions_come_back_from_their_file(tmp_path: Path) -> None:
    streams = gated_streams()
    controller = Random(ControlConfig(kind="random", byte_weight=0.2), streams, 0)
    World(streams, 0, noise=0.01).run(controller, 12)
    controller.save(tmp_path)
    kept = controller._recorder.transitions
    file = tmp_path / "transitions.jsonl"
    assert transitions.read(tmp_path) == transitions.read(file)
    for found, wrote in zip(transitions.read(tmp_path), kept, strict=True):
        assert found.stream == wrote.stream
        assert found.state == pytest.approx(wrote.state, rel=1e-5)
        assert found.next_state == pytest.approx(wrote.next_state, rel=1e-5)
        assert found.reward(0.05) == pytest.approx(wrote.reward(0.05), abs=1e-6)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["reward"] for row in rows] == pytest.approx([t.reward(0.2) for t in kept], rel=1e-5)
    assert max(len(str(abs(value))) for row in rows for value in row["state"]) < 13
    assert not list(tmp_path.glob("*.partial"))
    read = transitions.read(file)
    transitions.write(file, read, 0.2)
    assert transitions.read(file) == read


GOOD = {
    "stream": "gradient_down",
    "state": [0.5, 0.25, -1.0, -0.5, 0.75, 0, 1, 0, 0],
    "action": 1,
    "improvement": 0.01,
    "upload_ratio": 0.5,
    "next_state": [0.5, 0.25, -1.0, -0.5, 0.75, 0, 1, 0, 0],
}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON: "),
        ("", "not JSON: "),
        ("[" * 100_000, "not JSON: "),
        ("[]", "a JSON list; valid: an object with stream, state, action"),
        ({"action": None}, "action: None; valid: a finite number"),
        ({"action": True}, "action: True; valid: a finite number"),
        ({"action": "1"}, "action: '1'; valid: a finite number"),
        ({"action": math.nan}, "action: nan; valid: a finite number"),
        ({"action": 10**400}, "too large"),
        ({"action": 1.5}, "action: 1.5 is out of range; valid: -1 to 1"),
        ({"upload_ratio": -0.1}, "upload_ratio: -0.1 is out of range; valid: 0 to 1"),
        ({"improvement": 2}, "improvement: 2 is out of range; valid: -1 to 1"),
        ({"stream": "up"}, "stream 'up' is unknown; valid: activation_down, activation_up, gradient_down, gradient_up"),
        ({"stream": []}, "stream [] is unknown; valid: "),
        ({"state": 3}, "state: no list of 9; valid: 5 features and a one-hot"),
        ({"state": GOOD["state"][1:]}, "state: no list of 9"),
        ({"next_state": [*GOOD["state"][:8], math.inf]}, "next_state: inf; valid: a finite number"),
        (
            {"next_state": [*GOOD["state"][:5], 1, 0, 0, 0]},
            "next_state: ends in [1, 0, 0, 0]; valid with gradient_down",
        ),
        ("missing", "improvement is missing; valid: an object with"),
    ],
)
def test_a_line_that_is_no_transition_is_named_with_what_is_valid(line: Any, said: str, tmp_path: Path) -> None:
    if isinstance(line, dict):
        line = json.dumps(GOOD | line)
    elif line == "missing":
        line = json.dumps({key: value for key, value in GOOD.items() if key != "improvement"})
    file = tmp_path / "transitions.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(DataError) as caught:
        transitions.read(tmp_path)
    assert str(caught.value).startswith(f"{file}: line 2: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"transitions\.jsonl: No such file or directory; valid: the transitions of a"):
        transitions.read(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(DataError, match="bytes: not UTF-8; valid: the transitions of a run"):
        transitions.read(tmp_path / "bytes")

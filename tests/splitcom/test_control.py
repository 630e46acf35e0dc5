"""What every threshold controller keeps to, and the two that learn nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from splitcom.config import STREAMS, ControlConfig, StreamConfig
from splitcom.control import CONTROLLERS, Controller, gated
from splitcom.control.bang_bang import BangBang
from tests.controls import World, gated_streams

FILES = {
    "fixed": set(),
    "bang-bang": {"control.json"},
    "ddpg": {"policy.safetensors", "transitions.jsonl"},
    "random": {"transitions.jsonl"},
}


def make(kind: str, *names: str, seed: int = 0, **changed: object) -> Controller:
    streams = gated_streams(*names)  # type: ignore[arg-type]
    return CONTROLLERS[kind](ControlConfig(kind=kind, **changed), streams, seed)  # type: ignore[arg-type]


def bang_bang(hysteresis: float = 0.1) -> Controller:
    return make("bang-bang", "activation_up", "gradient_down", hysteresis=hysteresis)


def test_every_kind_that_can_be_configured_is_there() -> None:
    assert tuple(CONTROLLERS) == get_args(get_type_hints(ControlConfig)["kind"])


@pytest.mark.parametrize("kind", CONTROLLERS)
@pytest.mark.parametrize("names", [STREAMS, ("gradient_up",), ()])
def test_thresholds_stay_in_their_ranges_and_only_for_streams_that_were_given(
    kind: str, names: tuple[str, ...]
) -> None:
    streams = {name: StreamConfig(gate="cosine", threshold=0.7, loose=0.6, tight=0.9) for name in names}
    controller = CONTROLLERS[kind](ControlConfig(kind=kind, noise=2.0), streams, 3)  # type: ignore[arg-type]
    world = World(streams, 0)  # type: ignore[arg-type]
    for perplexity in (50.0, 30.0, 40.0, float("nan"), float("inf")):
        trace = world.run(controller, 5)
        changed = controller.evaluated(perplexity)
        world.thresholds |= changed
        for thresholds in (changed, *trace):
            assert set(thresholds) <= set(names)
            assert all(0.6 <= threshold <= 0.9 for threshold in thresholds.values())


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_values_are_plain_and_the_state_is_saved_as_often_as_asked(kind: str, tmp_path: Path) -> None:
    controller = make(kind)
    world = World(gated_streams(), 0)
    for _ in range(2):
        controller.evaluated(10.0)
        world.run(controller, 4)
        values = controller.values()
        assert json.loads(json.dumps(values)) == values
        assert all(value is None or isinstance(value, (int, float)) for value in values.values())
        controller.save(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == FILES[kind]


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_equal_seeds_act_alike_and_leave_other_draws_alone(kind: str) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, again, other = (World(gated_streams(), 0).run(make(kind, seed=seed), 30) for seed in (1, 1, 2))
    assert first == again
    assert (first == other) is not CONTROLLERS[kind].acts  # type: ignore[attr-defined]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_whoever_says_not_to_act_does_not(kind: str) -> None:
    controller = make(kind)
    moved = World(gated_streams(), 0).run(controller, 3)[-1] != dict.fromkeys(STREAMS, 0.95)
    assert moved is controller.acts


def test_streams_with_a_threshold_are_gated() -> None:
    streams = {
        "activation_up": StreamConfig(gate="relative_l2"),
        "gradient_down": StreamConfig(gate="cosine", enabled=False),
        "activation_down": StreamConfig(gate="once"),
        "gradient_up": StreamConfig(gate="none"),
    }
    assert list(gated(streams)) == ["activation_up"]  # type: ignore[arg-type]
    assert list(gated(gated_streams())) == list(STREAMS)


def test_without_ddpg_torch_is_not_loaded() -> None:
    code = """
import sys
from splitcom.config import ControlConfig, StreamConfig
from splitcom.control import CONTROLLERS, policy
for kind in ("fixed", "bang-bang", "random"):
    CONTROLLERS[kind](ControlConfig(kind=kind), {"activation_up": StreamConfig(gate="cosine")}, 0)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("perplexities", "position"),
    [
        ([100.0], 0),
        ([100.0, 109.0], 0),
        ([100.0, 91.0], 0),
        ([100.0, 110.0], 0),
        ([100.0, 90.0], 0),
        ([100.0, 111.0], 1),
        ([100.0, 89.0], -1),
        ([100.0, float("nan")], 1),
        ([100.0, float("inf")], 1),
        ([float("inf"), 100.0], -1),
        ([100.0, 89.0, 96.0], -1),
        ([100.0, 89.0, 99.0], 1),
        ([100.0, 111.0, 120.0], 1),
        ([100.0, 111.0, 99.0], -1),
        # Each step is within the band of the one before, however far they lead.
        ([100.0, 109.0, 118.0, 128.0], 0),
    ],
)
def test_bang_bang_moves_on_a_change_beyond_the_band(perplexities: list[float], position: int) -> None:
    controller = bang_bang()
    thresholds = {"activation_up": 0.95, "gradient_down": 0.95}
    for perplexity in perplexities:
        thresholds |= controller.evaluated(perplexity)
    assert controller.values() == {"position": position}
    assert set(thresholds.values()) == {{0: 0.95, -1: 0.9, 1: 1.0}[position]}


def test_without_a_band_every_change_moves_bang_bang_and_none_does_not() -> None:
    controller = bang_bang(hysteresis=0)
    moves = [controller.evaluated(perplexity) for perplexity in (10.0, 10.0, 10.001, 10.001, 10.0)]
    assert [bool(move) for move in moves] == [False, False, True, False, True]


def test_bang_bang_names_only_what_changes() -> None:
    controller = bang_bang()
    assert controller.evaluated(100) == {}
    assert controller.evaluated(50) == {"activation_up": 0.9, "gradient_down": 0.9}
    assert controller.evaluated(25) == {}
    already = {"activation_up": StreamConfig(threshold=0.9, loose=0.9), "gradient_up": StreamConfig(loose=0.9)}
    controller = BangBang(ControlConfig(kind="bang-bang"), already, 0)  # type: ignore[arg-type]
    controller.evaluated(100)
    assert controller.evaluated(50) == {"gradient_up": 0.9}


def test_bang_bang_saves_where_it_stands(tmp_path: Path) -> None:
    controller = bang_bang()
    controller.save(tmp_path)
    assert json.loads((tmp_path / "control.json").read_text()) == {"perplexity": None, "position": "start"}
    controller.evaluated(100)
    controller.evaluated(50)
    controller.save(tmp_path)
    assert json.loads((tmp_path / "control.json").read_text()) == {"perplexity": 50, "position": "loose"}

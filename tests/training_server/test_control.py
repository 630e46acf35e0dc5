"""What controllers are shown of a run, when they act, and that their thresholds hold at both ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.messages import Begin, GradientDown, Message, Thresholds
from splitcom.config import ControlConfig, StreamConfig, StreamName
from splitcom.frame import Count, PacketStats
from tests.faults import FaultyHub
from tests.runs import metrics, run_tiny, tiny_scenario
from training_server.control import Control

STREAMS: dict[StreamName, StreamConfig] = {
    "activation_up": StreamConfig(gate="cosine", threshold=0.97),
    "gradient_down": StreamConfig(gate="none"),
}


def stats(sent: int, skipped: int) -> PacketStats:
    return PacketStats({"keyframe": Count(sent, 9), "residual": Count(), "skip": Count(skipped, 9)}, 9, 9, 9, 9)


def test_only_gated_streams_have_thresholds() -> None:
    assert Control(ControlConfig(), STREAMS, 0).thresholds == {"activation_up": 0.97}


@pytest.mark.parametrize(("steps", "actions"), [(40, 20), (41, 20), (20, 20), (7, 7), (100, 20)])
def test_a_controller_acts_about_as_often_as_it_is_told(steps: int, actions: int) -> None:
    control = Control(ControlConfig(kind="random", actions_per_epoch=20), STREAMS, 0)
    control.plan(steps, 1)
    rows = [control.stepped(step, 1.0) for step in range(1, steps + 1)]
    assert sum(map(bool, rows)) == actions


def test_an_interval_reports_the_thresholds_that_were_in_force_and_what_they_let_through() -> None:
    control = Control(ControlConfig(kind="random", actions_per_epoch=2), STREAMS, 0)
    control.plan(4, 2)
    control.evaluated(50.0)
    control.observe("activation_up", stats(3, 1))
    control.observe("gradient_down", stats(9, 0))  # not gated: nobody's business
    assert control.stepped(1, 4.0) == {}
    control.observe("activation_up", stats(1, 3))
    row = control.stepped(2, 2.0)
    assert row["thresholds"] == {"activation_up": 0.97}
    assert row["upload_ratio"] == {"activation_up": 0.5}
    assert set(control.thresholds) == {"activation_up"}
    assert control.thresholds["activation_up"] != 0.97


def test_new_thresholds_reach_the_client_before_its_next_batch(tiny_base: Path, tmp_path: Path) -> None:
    down: list[Message] = []

    def watch(sender: str, peer: str, message: Message) -> Message:
        if isinstance(message, Begin | Thresholds | GradientDown):
            down.append(message)
        return message

    scenario = tiny_scenario(tiny_base, "all-gates", "random", clients=1, training={"epochs": 2})
    run_tiny(scenario, tmp_path / "run", FaultyHub(watch))
    assert [type(m).__name__ for m in down[:5]] == ["Begin", "Thresholds", "GradientDown", "Thresholds", "GradientDown"]
    assert all(set(m.thresholds) == {"activation_up"} for m in down if isinstance(m, Begin | Thresholds))
    # What the server wrote down as in force is what it had told the client.
    told = [m.thresholds["activation_up"] for m in down if isinstance(m, Begin | Thresholds)]
    rows = metrics(tmp_path / "run", "control")
    in_force = [
        told[0],
        *[
            t
            for m, t in zip([x for x in down if isinstance(x, Begin | Thresholds)], told, strict=True)
            if isinstance(m, Thresholds)
        ],
    ]
    assert [row["thresholds"]["activation_up"] for row in rows] == [round(t, 6) for t in in_force[: len(rows)]]


def test_bang_bang_switches_all_streams_after_an_evaluation(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, "all-gates", "u-shape", "bang-bang", clients=2, training={"epochs": 3})
    summary = run_tiny(scenario, tmp_path / "run")
    perplexities = [row["perplexity"] for row in metrics(tmp_path / "run", "evaluation")]
    last = metrics(tmp_path / "run", "control")[-1]
    assert perplexities[1] < perplexities[0]
    first = next(row for row in metrics(tmp_path / "run", "control") if row["epoch"] == 0 and not row["upload_ratio"])
    streams = scenario.streams
    assert first["thresholds"] == {name: getattr(streams, name).loose for name in first["thresholds"]}
    assert set(last["thresholds"]) == set(summary["skip_ratios"])
    assert json.loads((tmp_path / "run" / "control.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), ("u-shape",)])
def test_ddpg_acts_on_every_gated_stream_and_leaves_its_policy_behind(
    tiny_base: Path, tmp_path: Path, shape: tuple[str, ...]
) -> None:
    layer: dict[str, Any] = {"clients": 2, "data": {"train": 48}, "training": {"epochs": 2, "batch_size": 1}}
    scenario = tiny_scenario(tiny_base, "all-gates", "ddpg", *shape, **layer)
    run_tiny(scenario, tmp_path / "run")
    streams = 4 if shape else 2
    rows = [row for row in metrics(tmp_path / "run", "control") if row["upload_ratio"]]
    assert sum(row["epoch"] == 0 for row in rows) >= 20
    assert all(len(row["thresholds"]) == streams for row in rows)
    assert len({tuple(row["thresholds"].values()) for row in rows}) > 20
    transitions = (tmp_path / "run" / "transitions.jsonl").read_text().splitlines()
    assert len(transitions) == (len(rows) - 1) * streams
    policy = tmp_path / "run" / "policy.safetensors"
    again = tiny_scenario(tiny_base, "all-gates", "ddpg", *shape, **layer, control={"policy": str(policy)})
    assert run_tiny(again, tmp_path / "again")["end"] == "finished"


@pytest.mark.slow
def test_a_run_with_a_controller_repeats_to_the_bit(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, "all-gates", "u-shape", "ddpg", clients=2)
    one, two = (run_tiny(scenario, tmp_path / name) for name in ("one", "two"))
    assert one["perplexity"] == two["perplexity"]
    assert one["total_bytes"] == two["total_bytes"]


@pytest.mark.slow
def test_memory_and_mqtt_agree_with_a_controller_that_acts(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, "all-gates", "u-shape", "random", clients=2)
    memory, mqtt = (run_tiny(scenario, tmp_path / name, name) for name in ("memory", "mqtt"))
    assert memory["perplexity"] == mqtt["perplexity"]
    assert memory["up"]["kinds"] == mqtt["up"]["kinds"]
    assert memory["down"]["kinds"] == mqtt["down"]["kinds"]

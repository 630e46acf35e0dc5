"""`splitcom policy`: a policy from recorded runs, and what a policy says about itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from splitcom.config import ControlConfig
from splitcom.control import CONTROLLERS
from splitcom.control.random import Random
from testbed.__main__ import main
from tests.controls import World, gated_streams
from tests.refusals import check_refused, enter

QUICK = ["--updates", "20", "--minimum", "50"]


def record(directory: Path, seed: int, acts: int = 21, *names: str) -> None:
    """The transitions of a run: (acts - 1) for each of two streams, or of those named."""
    streams = gated_streams(*(names or ("activation_up", "gradient_down")))  # type: ignore[arg-type]
    controller = Random(ControlConfig(kind="random"), streams, seed)
    World(streams, seed, noise=0.01).run(controller, acts)
    directory.mkdir(parents=True)
    controller.save(directory)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with two runs that recorded 40 transitions each and one that recorded none."""
    enter(tmp_path, "SPLITCOM_", monkeypatch)
    for seed in range(2):
        record(tmp_path / "runs" / str(seed), seed)
    (tmp_path / "runs" / "none").mkdir()
    return tmp_path


def policy(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["policy", *arguments])


def test_a_policy_is_trained_reported_and_used(here: Path) -> None:
    result = policy("train", "runs/0", "runs/1/transitions.jsonl", "--out", "p.safetensors", *QUICK)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"80 transitions, 20 updates, critic loss \d\.\d{4}, byte weight 0.05", lines[0])
    assert [line.split()[:2] for line in lines[3:5]] == [["activation_up", "40"], ["gradient_down", "40"]]
    assert lines[-1] == "policy: p.safetensors"
    assert max(map(len, lines)) <= 80
    said = result.stderr.splitlines()
    assert len(said) == 10
    assert re.fullmatch(r"policy: update 20/20, critic loss \d\.\d{4}", said[-1])
    streams = gated_streams("gradient_up")
    config = ControlConfig(kind="ddpg", policy="p.safetensors", learn=False)
    assert World(streams, 0).run(CONTROLLERS["ddpg"](config, streams, 0), 2)
    shown = policy("show", "p.safetensors")
    assert shown.exit_code == 0
    assert {"transitions: 80", "version: 1", "state_size: 9", "byte_weight: 0.05"} <= set(shown.stdout.splitlines())


def test_the_result_as_json_names_every_stream_that_was_recorded(here: Path) -> None:
    result = policy("train", "runs/0", "runs/1", "--out", "p", "--byte-weight", "0.5", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["transitions"], found["updates"], found["byte_weight"]) == (80, 20, 0.5)
    assert set(found["actions"]) == {"activation_up", "gradient_down"}
    for actions in found["actions"].values():
        assert actions["transitions"] == 40
        assert actions["recorded_spread"] == pytest.approx(0.58, abs=0.1)
        assert -1 <= actions["policy_mean"] <= 1
    assert json.loads(policy("show", "p", "--json").stdout)["byte_weight"] == "0.5"


def test_the_weight_of_bytes_decides_between_many_uploads_and_few(here: Path) -> None:
    means = []
    for weight in ("0", "10"):
        arguments = ["--byte-weight", weight, "--updates", "300", "--minimum", "50", "--json"]
        found = json.loads(policy("train", "runs/0", "runs/1", "--out", weight, *arguments).stdout)
        means.append([actions["policy_mean"] for actions in found["actions"].values()])
    assert all(free > 0.2 and dear < -0.5 for free, dear in zip(*means, strict=True))


def test_equal_arguments_give_the_same_policy(here: Path) -> None:
    results = [
        json.loads(policy("train", "runs/0", "runs/1", "--out", name, "--seed", seed, "--json", *QUICK).stdout)
        for name, seed in (("a", "3"), ("b", "3"), ("c", "4"))
    ]
    assert results[0] | {"policy": "b"} == results[1]
    assert results[0]["critic_loss"] != results[2]["critic_loss"]


def test_a_run_that_is_named_twice_counts_once(here: Path) -> None:
    result = policy("train", "runs/0", "runs/0/transitions.jsonl", "./runs/0", "--out", "p", *QUICK)
    check_refused(result, "RUN: 40 transitions in all; valid: at least 50 (see --minimum)")


def test_actions_that_hardly_differ_are_pointed_out(here: Path) -> None:
    file = here / "runs" / "0" / "transitions.jsonl"
    rows = [json.loads(line) | {"action": 0.25} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row["stream"] == "activation_up"))
    result = policy("train", "runs/0", "--out", "p", "--updates", "1", "--minimum", "1")
    assert result.exit_code == 0, result.output
    assert "policy: activation_up: the recorded actions hardly differ" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--out", "p"], "'RUN...'"),
        (["train", "runs/0"], "'--out'"),
        (["train", "runs/0", "--out", "p"], "RUN: 40 transitions in all; valid: at least 2000 (see --minimum)"),
        (
            ["train", "runs/none", "--out", "p"],
            "runs/none/transitions.jsonl: No such file or directory; valid: the tra",
        ),
        (
            ["train", "nowhere", "--out", "p"],
            "nowhere: No such file or directory; valid: the transitions of a run with",
        ),
        (["train", "runs/0", "bad.jsonl", "--out", "p"], "bad.jsonl: line 1: not JSON: "),
        (["train", "runs/0", "--out", "runs"], "--out: runs exists; valid: a file that does not exist yet"),
        (["train", "runs/0", "--out", "no/p"], "--out: no is no directory; valid: a file in an existing one"),
        (["train", "runs/0", "--out", "p", "--updates", "0"], "'--updates'"),
        (["train", "runs/0", "--out", "p", "--byte-weight", "-1"], "'--byte-weight'"),
        (["train", "runs/0", "--out", "p", "--update", "3"], "'--update'"),
        (["show", "nowhere"], "FILE: nowhere: no such file; valid: a file that `splitcom policy train`"),
        (["show", "bad.jsonl"], "FILE: bad.jsonl: no safetensors file; valid: "),
        (["show"], "'FILE'"),
        (["pretrain"], "'pretrain'"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(arguments: list[str], said: str, here: Path) -> None:
    (here / "bad.jsonl").write_text("{\n")
    before = sorted(here.rglob("*"))
    check_refused(policy(*arguments), said)
    assert sorted(here.rglob("*")) == before

"""The DDPG controller in a run, and the file of its policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from splitcom.config import STREAMS, ControlConfig
from splitcom.control import policy, transitions
from splitcom.control.ddpg import Learner
from splitcom.control.learned import Ddpg
from splitcom.control.policy import Policy
from splitcom.errors import ConfigError
from tests.controls import BEST, World, gated_streams, observation


def ddpg(*names: str, seed: int = 0, **changed: Any) -> Ddpg:
    return Ddpg(ControlConfig(kind="ddpg", **changed), gated_streams(*names), seed)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy file of an untrained learner."""
    path = tmp_path_factory.mktemp("policies") / "policy.safetensors"
    policy.write(path, Policy(Learner(9).weights(), 1234, 0.05))
    return path


def test_noise_decays_with_every_action_and_values_tell_it() -> None:
    controller = ddpg(noise=0.4, noise_decay=0.5)
    world = World(gated_streams(), 0)
    noise = []
    for _ in range(4):
        noise.append(controller.values()["noise"])
        world.run(controller, 1)
    assert noise == pytest.approx([0.4, 0.2, 0.1, 0.05])


def test_values_are_unknown_until_there_is_something_to_know() -> None:
    controller = ddpg()
    world = World(gated_streams(), 0)
    world.run(controller, 1)
    assert controller.values() == {"noise": pytest.approx(0.297), "reward": None, "critic_loss": None, "transitions": 0}
    world.run(controller, 16)
    values = controller.values()
    assert values["transitions"] == 16 * 4
    assert values["critic_loss"] > 0
    last = controller._recorder.transitions[-4:]
    assert values["reward"] == pytest.approx(sum(t.improvement - 0.05 * t.upload_ratio for t in last) / 4)


@pytest.mark.slow
def test_a_controller_that_learns_nears_the_best_threshold_while_it_acts() -> None:
    streams = gated_streams("gradient_up")
    controller = ddpg("gradient_up", noise=0.5)
    world = World(streams, 0)
    trace = [thresholds["gradient_up"] for thresholds in world.run(controller, 140)]
    best = 0.95 + 0.05 * BEST["gradient_up"]
    early, late = (np.abs(np.array(part) - best).mean() for part in (trace[:40], trace[-20:]))
    assert late < 0.02 < early


def test_without_learning_nothing_is_drawn_and_the_policy_stays(saved: Path, tmp_path: Path) -> None:
    traces = []
    for seed in range(2):
        controller = ddpg(seed=seed, policy=str(saved), learn=False, noise=0.9)
        assert controller.values()["noise"] == 0
        traces.append(World(gated_streams(), 0).run(controller, 30))
    assert traces[0] == traces[1]
    controller.save(tmp_path)
    assert policy.read(tmp_path / "policy.safetensors").transitions == 1234
    assert same(policy.read(tmp_path / "policy.safetensors"), policy.read(saved))
    assert len(transitions.read(tmp_path)) == 29 * 4


def same(one: Policy, other: Policy) -> bool:
    return all((one.weights[name] == tensor).all() for name, tensor in other.weights.items())


def test_a_saved_policy_acts_bit_for_bit_as_before(tmp_path: Path) -> None:
    controller = ddpg()
    World(gated_streams(), 0, noise=0.01).run(controller, 20)
    controller.save(tmp_path)
    file = tmp_path / "policy.safetensors"
    assert policy.read(file).transitions == 19 * 4
    loaded = ddpg(seed=8, policy=str(file), learn=False)
    states = [transition.state for transition in controller._recorder.transitions]
    assert [loaded._learner.action(state) for state in states] == [controller._learner.action(s) for s in states]
    assert {loaded._learner.action(state) for state in states} != {0.0}


def test_a_policy_that_learns_on_counts_all_its_transitions(saved: Path, tmp_path: Path) -> None:
    controller = ddpg("activation_up", policy=str(saved))
    World(gated_streams("activation_up"), 0).run(controller, 70)
    controller.save(tmp_path)
    read = policy.read(tmp_path / "policy.safetensors")
    assert read.transitions == 1234 + 69
    assert not same(read, policy.read(saved))


def test_one_policy_serves_any_choice_of_streams(saved: Path) -> None:
    alone, together = (ddpg(*names, policy=str(saved), learn=False) for names in (("gradient_up",), STREAMS))
    seen = [observation(name) for name in STREAMS]
    thresholds = together.act(seen)
    assert alone.act(seen[-1:]) == {"gradient_up": thresholds["gradient_up"]}
    assert len(set(thresholds.values())) == 4


def test_a_threshold_that_is_in_force_is_not_named_again(saved: Path) -> None:
    controller = ddpg("gradient_up", policy=str(saved), learn=False)
    (threshold,) = controller.act([observation("gradient_up")]).values()
    streams = gated_streams("gradient_up", loose=threshold, tight=threshold)
    fixed = Ddpg(ControlConfig(kind="ddpg", policy=str(saved), learn=False), streams, 0)
    assert fixed.act([observation("gradient_up", threshold=threshold)]) == {}


def test_a_controller_without_policy_must_learn() -> None:
    with pytest.raises(ValueError, match=r"^learn: false without a policy; valid: true, or a file in control"):
        ddpg(learn=False)


def test_a_policy_file_says_what_it_fits_and_what_it_learned_from(saved: Path) -> None:
    with safe_open(str(saved), framework="numpy") as archive:
        assert archive.metadata() == {
            "format": "splitcom policy",
            "version": "1",
            "state_size": "9",
            "action_size": "1",
            "hidden": "64",
            "streams": "activation_up,gradient_down,activation_down,gradient_up",
            "transitions": "1234",
            "byte_weight": "0.05",
        }
    read = policy.read(saved)
    assert read.weights.keys() == policy.shapes().keys() == Learner(0).weights().keys()
    assert {name: tensor.shape for name, tensor in Learner(0).weights().items()} == policy.shapes()
    assert not list(saved.parent.glob("*.partial"))


def archive(saved: Path, path: Path, metadata: dict[str, str] | None, **tensors: np.ndarray | None) -> None:
    read = policy.read(saved)
    changed = {name.replace("_", ".", 2): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in (read.weights | changed).items() if tensor is not None}
    save_file(kept, str(path), metadata=None if metadata is None else policy.described(read) | metadata)


@pytest.mark.parametrize(
    ("metadata", "tensors", "said"),
    [
        (None, {}, "no policy; valid: a file that `splitcom policy train` or a run with control.kind ddpg wrote"),
        ({"format": "pt"}, {}, "no policy; valid: "),
        ({"version": "2"}, {}, "version 2; valid: 1"),
        ({"state_size": "10"}, {}, "state_size 10; valid: 9"),
        ({"action_size": "4"}, {}, "action_size 4; valid: 1"),
        ({"hidden": "32"}, {}, "hidden 32; valid: 64"),
        ({"streams": "activation_up"}, {}, "streams activation_up; valid: activation_up,gradient_down,"),
        ({"transitions": "many"}, {}, "no number of transitions or weight of bytes in it; valid: "),
        (
            {},
            {"actor_0_weight": np.zeros((64, 10), np.float32)},
            "tensor actor.0.weight is F32 of shape (64, 10); valid",
        ),
        ({}, {"critic_4_bias": np.zeros(1, np.float64)}, "is F64 of shape (1,); valid: F32 of shape (1,)"),
        ({}, {"actor_2_bias": np.full(64, np.nan, np.float32)}, "tensor actor.2.bias holds values that are not finite"),
        ({}, {"actor_2_bias": None}, "tensor actor.2.bias is missing; valid: "),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_in_one_line(
    metadata: dict[str, str] | None, tensors: dict[str, Any], said: str, saved: Path, tmp_path: Path
) -> None:
    archive(saved, tmp_path / "bad", metadata, **tensors)
    refused(tmp_path / "bad", said)


def refused(path: Path, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ddpg(policy=str(path))
    assert str(caught.value).startswith(f"control.policy: {path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_archive_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such file; valid: a file that `splitcom policy train`")
    refused(tmp_path, "a directory; valid: ")
    for content in (b"", b"\x80\x04.", saved.read_bytes()[:-1], saved.read_bytes()[:40]):
        (tmp_path / "bad").write_bytes(content)
        refused(tmp_path / "bad", "no safetensors file; valid: ")

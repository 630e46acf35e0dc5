"""The DDPG learner: it finds optima that are known, and keeps to the rules of its parts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from splitcom.config import ControlConfig
from splitcom.control.ddpg import DdpgSettings, Learner, follow, network
from splitcom.control.offline import train
from splitcom.control.random import Random
from splitcom.control.replay import Replay
from tests.controls import BEST, BYTE_WEIGHT, World, gated_streams

# Coarser and faster than the defaults; a few hundred updates are enough for these small worlds.
QUICK = {"hidden": 32, "batch_size": 256, "actor_rate": 5e-3, "critic_rate": 1e-2, "tau": 0.1}
UPDATES = 150


def best_arm(state: tuple[float, ...]) -> float:
    return 0.5 * state[0] - 0.3 * state[1] + 0.1


def bandit(seed: int) -> Learner:
    """Off-policy on a contextual bandit with reward -(action - best_arm(state))^2."""
    draw = np.random.default_rng(seed)
    learner = Learner(seed, DdpgSettings(discount=0, **QUICK), state_size=2)  # type: ignore[arg-type]
    for _ in range(1000):
        state, after, action = tuple(draw.uniform(-1, 1, 2)), tuple(draw.uniform(-1, 1, 2)), draw.uniform(-1, 1)
        learner.replay.add(state, action, -((action - best_arm(state)) ** 2), after)
    return learner


# x' = A x + B u with reward -(x^2 + R u^2), discounted.
A, B, R, DISCOUNT = 0.9, 0.5, 0.5, 0.9


def best_gain() -> float:
    """The gain of the best policy u = -gain x, from the discounted Riccati equation."""
    cost = 1.0
    for _ in range(1000):
        cost = 1 + DISCOUNT * A**2 * cost - (DISCOUNT * A * B * cost) ** 2 / (R + DISCOUNT * B**2 * cost)
    return DISCOUNT * A * B * cost / (R + DISCOUNT * B**2 * cost)


def regulator(seed: int) -> Learner:
    """Off-policy on the linear-quadratic regulator."""
    draw = np.random.default_rng(seed)
    learner = Learner(seed, DdpgSettings(discount=DISCOUNT, **QUICK), state_size=1)  # type: ignore[arg-type]
    for _ in range(2000):
        x, u = draw.uniform(-1, 1, 2)
        learner.replay.add((x,), u, -(x * x + R * u * u), (A * x + B * u,))
    return learner


def errors(learner: Learner, best: Callable[[tuple[float, ...]], float], size: int) -> np.ndarray:
    """The learned less the best action on a grid of states."""
    axis = np.linspace(-0.9, 0.9, 7)
    states = [tuple(point) for point in np.stack(np.meshgrid(*[axis] * size), -1).reshape(-1, size)]
    return np.array([learner.action(state) - best(state) for state in states])


@pytest.mark.parametrize("seed", range(3))
def test_a_bandits_best_arm_is_learned(seed: int) -> None:
    learner = bandit(seed)
    before = np.abs(errors(learner, best_arm, 2)).max()
    for _ in range(UPDATES):
        learner.update()
    found = errors(learner, best_arm, 2)
    assert before > 0.5
    assert np.sqrt(np.mean(found**2)) < 0.06
    assert np.abs(found).max() < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_a_regulators_riccati_gain_is_learned(seed: int) -> None:
    learner = regulator(seed)
    for _ in range(UPDATES):
        learner.update()
    gain = best_gain()
    # The myopic policy is u = 0, so that whatever is learned comes from looking ahead.
    assert gain > 0.7
    assert np.abs(errors(learner, lambda state: -gain * state[0], 1)).max() < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_best_threshold_of_each_stream_is_learned_inside_its_range(seed: int) -> None:
    streams = gated_streams()
    controller = Random(ControlConfig(kind="random"), streams, seed)
    World(streams, seed).run(controller, 300)
    learner = Learner(seed, DdpgSettings(**QUICK))  # type: ignore[arg-type]
    states = []
    for transition in controller._recorder.transitions:
        reward = transition.reward(BYTE_WEIGHT)
        learner.replay.add(transition.state, transition.action, reward, transition.next_state)
        states.append((transition.stream, transition.state))
    for _ in range(UPDATES):
        learner.update()
    for name in streams:
        mean = np.mean([learner.action(state) for stream, state in states if stream == name])
        assert mean == pytest.approx(BEST[name], abs=0.25)


@pytest.mark.slow
def test_the_default_settings_find_the_best_thresholds_from_noisy_rewards() -> None:
    streams = gated_streams()
    controller = Random(ControlConfig(kind="random"), streams, 0)
    World(streams, 0, noise=0.005).run(controller, 501)
    trained = train(controller._recorder.transitions, BYTE_WEIGHT, 1500, 0, lambda *_: None)
    for name, actions in trained.actions.items():
        assert actions.policy_mean == pytest.approx(BEST[name], abs=0.25)


@pytest.mark.slow
def test_another_implementation_finds_the_same_optimum() -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    gymnasium = pytest.importorskip("gymnasium")

    class Bandit(gymnasium.Env):  # type: ignore[misc, name-defined]
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
            super().reset(seed=seed)
            self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
            return self.state, {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
            return self.state, -float((action[0] - best_arm(tuple(self.state))) ** 2), True, False, {}

    with torch.random.fork_rng():
        noise = stable_baselines3.common.noise.NormalActionNoise(np.zeros(1), 0.5 * np.ones(1))
        other = stable_baselines3.DDPG(
            "MlpPolicy", Bandit(), action_noise=noise, learning_starts=300, seed=0, policy_kwargs={"net_arch": [64, 64]}
        )
        other.learn(1500)
    ours = bandit(0)
    for _ in range(UPDATES):
        ours.update()
    axis = np.linspace(-0.9, 0.9, 7)
    for state in ((x, y) for x in axis for y in axis):
        (theirs,), _ = other.predict(np.array(state, np.float32), deterministic=True)
        assert theirs == pytest.approx(best_arm(state), abs=0.25)
        assert ours.action(state) == pytest.approx(theirs, abs=0.3)


def test_equal_seeds_learn_the_same_bits() -> None:
    weights = []
    for seed in (4, 4, 5):
        learner = Learner(seed, DdpgSettings(**QUICK), state_size=2)  # type: ignore[arg-type]
        for index in range(300):
            learner.replay.add((index / 300, 0.5), math.sin(index), math.cos(index), (0.5, index / 300))
        for _ in range(10):
            learner.update()
        weights.append(np.concatenate([tensor.ravel() for tensor in learner.weights().values()]).tobytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_a_learner_that_took_over_the_weights_acts_the_same() -> None:
    first, second = bandit(0), bandit(1)
    for _ in range(5):
        first.update()
    second.load(first.weights())
    assert (errors(first, best_arm, 2) == errors(second, best_arm, 2)).all()
    for target, source in ((second.target_actor, first.actor), (second.target_critic, first.critic)):
        for one, other in zip(target.parameters(), source.parameters(), strict=True):
            assert torch.equal(one, other)


def test_targets_move_by_tau_of_the_way() -> None:
    learner = bandit(0)
    learner.update()
    before = [parameter.clone() for parameter in learner.target_critic.parameters()]
    learner.update()
    tau = learner.settings.tau
    for old, new, source in zip(before, learner.target_critic.parameters(), learner.critic.parameters(), strict=True):
        assert not torch.equal(old, new)
        assert torch.allclose(new, (1 - tau) * old + tau * source, atol=1e-7)
    follow(learner.target_actor, learner.actor, 1.0)
    for one, other in zip(learner.target_actor.parameters(), learner.actor.parameters(), strict=True):
        assert torch.equal(one, other)


def test_nothing_is_learned_from_less_than_a_batch() -> None:
    learner = Learner(0, DdpgSettings(batch_size=4), state_size=1)
    before = learner.weights()
    for index in range(3):
        learner.replay.add((0.5,), 0.5, float(index), (0.5,))
        assert learner.update() is None
    assert all((tensor == before[name]).all() for name, tensor in learner.weights().items())
    learner.replay.add((0.5,), 0.5, 3.0, (0.5,))
    assert learner.update() == learner.critic_loss
    assert all((tensor != before[name]).any() for name, tensor in learner.weights().items())


def test_first_actions_are_near_the_middle() -> None:
    assert np.abs(errors(Learner(0, state_size=2), lambda _: 0.0, 2)).max() < 0.05


def test_an_optimum_at_the_end_of_the_range_is_approached() -> None:
    learner = Learner(0, DdpgSettings(discount=0, **QUICK), state_size=1)  # type: ignore[arg-type]
    draw = np.random.default_rng(0)
    for _ in range(500):
        state, action = draw.uniform(-1, 1, 2)
        learner.replay.add((state,), action, action, (state,))
    for _ in range(UPDATES):
        learner.update()
    assert learner.action((0.0,)) > 0.9


def test_the_replay_is_bounded_and_forgets_the_oldest() -> None:
    replay = Replay(capacity=10, state_size=2)
    for index in range(25):
        replay.add((index, -index), index / 25, float(index), (index + 1, 0))
        assert len(replay) == min(index + 1, 10)
    batch = replay.sample(np.random.default_rng(0), 500)
    assert {int(x) for x in batch.states[:, 0]} == set(range(15, 25))
    assert torch.equal(batch.next_states[:, 0], batch.states[:, 0] + 1)
    assert torch.allclose(batch.actions[:, 0], batch.states[:, 0] / 25)
    assert [tensor.dtype for tensor in batch] == [torch.float32] * 4
    assert [tuple(tensor.shape) for tensor in batch] == [(500, 2), (500, 1), (500, 1), (500, 2)]


def test_rewards_are_drawn_on_one_scale_in_their_order() -> None:
    replay = Replay(capacity=8, state_size=1)
    for reward in (0.01, 0.02, 0.03, 0.06):
        replay.add((reward,), 0, reward, (0,))
    batch = replay.sample(np.random.default_rng(0), 50)
    held = np.array([0.01, 0.02, 0.03, 0.06])
    assert batch.rewards.numpy() == pytest.approx((batch.states.numpy() - held.mean()) / held.std(), abs=1e-5)


def test_equal_rewards_stay_finite() -> None:
    replay = Replay(capacity=8, state_size=1)
    replay.add((0,), 0, 0.5, (0,))
    assert replay.sample(np.random.default_rng(0), 3).rewards.abs().max() == 0


def test_networks_are_drawn_from_their_seed_and_name() -> None:
    draws = [
        network(name, 3, 8, seed)[0].weight for name, seed in (("actor", 0), ("actor", 0), ("critic", 0), ("actor", 1))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"discount": 1.5}, "discount: 1.5"),
        ({"tau": 0}, "tau: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"hidden": 0}, "h"),
    ],
)
def test_settings_out_of_range_are_named(changed: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DdpgSettings(**changed)  # type: ignore[arg-type]

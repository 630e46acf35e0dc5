"""Training a policy from recorded transitions, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from splitcom.config import STREAMS, StreamName
from splitcom.control.ddpg import DdpgSettings, Learner
from splitcom.control.policy import Policy
from splitcom.control.transitions import Transition

# More than in a run: here nobody waits for a step, and a large batch averages the noise of the loss.
BATCH_SIZE = 256

# Called after an update with its number, their count and the critic's loss.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Actions:
    """Of one stream: how many transitions it has, the recorded actions' mean and standard deviation, and what the
    policy would have done in the same states, on average."""

    transitions: int
    recorded_mean: float
    recorded_spread: float
    policy_mean: float


@dataclass(frozen=True)
class Trained:
    """A policy, the mean critic loss of the last tenth of its updates, and its actions by stream."""

    policy: Policy
    critic_loss: float
    actions: dict[StreamName, Actions]


def train(
    transitions: Sequence[Transition], byte_weight: float, updates: int, seed: int, progress: Progress
) -> Trained:
    """DDPG on a fixed set of at least one transition; equal arguments give equal bits.

    The policy can be trusted only where the recorded actions were: nothing corrects the critic elsewhere.
    """
    settings = DdpgSettings(batch_size=min(BATCH_SIZE, len(transitions)), capacity=len(transitions))
    learner = Learner(seed, settings)
    for transition in transitions:
        reward = transition.reward(byte_weight)
        learner.replay.add(transition.state, transition.action, reward, transition.next_state)
    losses = []
    for update in range(updates):
        losses.append(learner.update() or 0.0)
        progress(update + 1, updates, losses[-1])
    critic_loss = float(np.mean(losses[-max(1, updates // 10) :]))
    policy = Policy(learner.weights(), len(transitions), byte_weight)
    return Trained(policy, critic_loss, _actions(learner, transitions))


def _actions(learner: Learner, transitions: Sequence[Transition]) -> dict[StreamName, Actions]:
    found: dict[StreamName, Actions] = {}
    for name in STREAMS:
        own = [transition for transition in transitions if transition.stream == name]
        if own:
            recorded = np.array([transition.action for transition in own])
            chosen = np.array([learner.action(transition.state) for transition in own])
            found[name] = Actions(len(own), float(recorded.mean()), float(recorded.std()), float(chosen.mean()))
    return found

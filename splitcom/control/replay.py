"""The replay buffer of DDPG: the newest transitions, drawn at random, with rewards on one scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

# A spread of rewards below this is not blown up to 1.
SPREAD_MIN = 1e-3


class Batch(NamedTuple):
    """B transitions: states (B, S), actions (B, 1), normalised rewards (B, 1), next states (B, S); float32."""

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor


class Replay:
    """At most `capacity` transitions; a newer one takes the place of the oldest.

    Rewards are handed out less their mean and over their standard deviation, both of all that is held: rewards of
    this project are some hundredths, too small for the usual learning rates. As no transition ends an episode, that
    shifts and scales every action's value alike, and leaves the best action the best.
    """

    def __init__(self, capacity: int, state_size: int) -> None:
        self._states = np.zeros((capacity, state_size), np.float32)
        self._actions = np.zeros((capacity, 1), np.float32)
        self._rewards = np.zeros((capacity, 1), np.float64)
        self._next_states = np.zeros((capacity, state_size), np.float32)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._rewards))

    def add(self, state: tuple[float, ...], action: float, reward: float, next_state: tuple[float, ...]) -> None:
        """Keep a transition."""
        place = self._added % len(self._rewards)
        self._states[place] = state
        self._actions[place] = action
        self._rewards[place] = reward
        self._next_states[place] = next_state
        self._added += 1

    def sample(self, generator: np.random.Generator, count: int) -> Batch:
        """`count` transitions, drawn with replacement."""
        places = generator.integers(0, len(self), count)
        held = self._rewards[: len(self)]
        rewards = (self._rewards[places] - held.mean()) / max(float(held.std()), SPREAD_MIN)
        return Batch(*map(_tensor, (self._states[places], self._actions[places], rewards, self._next_states[places])))


def _tensor(values: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32, copy=False))

"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971) for one action in [-1, 1].

An actor maps a state to an action, a critic a state and an action to the discounted sum of the rewards to come. Both
have target networks that follow slowly. Nothing here draws from torch's global generator, on which LoRA dropout may
depend.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from splitcom.config import check
from splitcom.control.environment import STATE_SIZE, State
from splitcom.control.policy import HIDDEN, Weights
from splitcom.control.replay import Batch, Replay
from splitcom.data.draws import Draws


@dataclass(frozen=True)
class DdpgSettings:
    """Sizes and rates of the learner.

    `discount` 0.9 looks about ten actions ahead, half an epoch at the default rate. `saturation` weighs a penalty on
    the actor's output beyond 1 before tanh, where the gradient would vanish.
    """

    hidden: int = HIDDEN
    discount: float = 0.9
    tau: float = 0.01
    actor_rate: float = 1e-3
    critic_rate: float = 2e-3
    saturation: float = 0.01
    batch_size: int = 64
    capacity: int = 100_000

    def __post_init__(self) -> None:
        check("hidden", self.hidden, 1)
        check("discount", self.discount, 0, 1)
        check("tau", self.tau, 0, 1, open_low=True)
        check("actor_rate", self.actor_rate, 0, open_low=True)
        check("critic_rate", self.critic_rate, 0, open_low=True)
        check("saturation", self.saturation, 0)
        check("batch_size", self.batch_size, 1)
        check("capacity", self.capacity, 1)


class Learner:
    """Actor, critic, their targets and the replay buffer; equal seeds and calls give equal bits."""

    def __init__(self, seed: int, settings: DdpgSettings | None = None, state_size: int = STATE_SIZE) -> None:
        self.settings = settings or DdpgSettings()
        self.replay = Replay(self.settings.capacity, state_size)
        self.actor = network("actor", state_size, self.settings.hidden, seed)
        self.critic = network("critic", state_size + 1, self.settings.hidden, seed)
        self.critic_loss: float | None = None
        self._batches = Draws(seed, "ddpg", "batches").generator()
        self._follow_at_once()
        self._actor_adam = torch.optim.Adam(self.actor.parameters(), lr=self.settings.actor_rate, fused=True)
        self._critic_adam = torch.optim.Adam(self.critic.parameters(), lr=self.settings.critic_rate, fused=True)

    def action(self, state: State) -> float:
        """The policy's action in [-1, 1], without noise."""
        with torch.no_grad():
            return float(torch.tanh(self.actor(torch.tensor([state], dtype=torch.float32))))

    def update(self) -> float | None:
        """One gradient step of critic and actor; the critic's loss, None while there is less than a batch."""
        if len(self.replay) < self.settings.batch_size:
            return None
        batch = self.replay.sample(self._batches, self.settings.batch_size)
        self.critic_loss = self._step_critic(batch)
        self._step_actor(batch)
        follow(self.target_actor, self.actor, self.settings.tau)
        follow(self.target_critic, self.critic, self.settings.tau)
        return self.critic_loss

    def weights(self) -> Weights:
        """Copies of the tensors of actor and critic, by names such as `actor.0.weight`."""
        parts = {"actor": self.actor, "critic": self.critic}
        return {
            f"{part}.{n}": p.detach().numpy().copy() for part, net in parts.items() for n, p in net.named_parameters()
        }

    def load(self, weights: Weights) -> None:
        """Take over what `weights` gave for networks of this size; the targets start equal to them."""
        with torch.no_grad():
            for part, net in (("actor", self.actor), ("critic", self.critic)):
                for name, parameter in net.named_parameters():
                    parameter.copy_(torch.from_numpy(weights[f"{part}.{name}"]))
        self._follow_at_once()

    def _step_critic(self, batch: Batch) -> float:
        with torch.no_grad():
            actions = torch.tanh(self.target_actor(batch.next_states))
            ahead = self.target_critic(torch.cat([batch.next_states, actions], 1))
            wanted = batch.rewards + self.settings.discount * ahead
        values = self.critic(torch.cat([batch.states, batch.actions], 1))
        loss = nn.functional.mse_loss(values, wanted)
        self._critic_adam.zero_grad()
        torch.autograd.backward(loss)
        self._critic_adam.step()
        return loss.item()

    def _step_actor(self, batch: Batch) -> None:
        raw = self.actor(batch.states)
        value = self.critic(torch.cat([batch.states, torch.tanh(raw)], 1)).mean()
        beyond = nn.functional.relu(raw.abs() - 1).square().mean()
        self._actor_adam.zero_grad()
        torch.autograd.backward(self.settings.saturation * beyond - value, inputs=list(self.actor.parameters()))
        self._actor_adam.step()

    def _follow_at_once(self) -> None:
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)


def follow(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Polyak averaging: target = (1 - tau) * target + tau * source, tensor by tensor."""
    with torch.no_grad():
        for old, new in zip(target.parameters(), source.parameters(), strict=True):
            old.lerp_(new, tau)


def network(name: str, inputs: int, hidden: int, seed: int) -> nn.Sequential:
    """Two hidden layers and one output, drawn from (seed, name): uniform over 1 / sqrt(fan in), the output within 3e-3.

    The small output layer is the paper's: first actions and values are near 0. SiLU is not: with ReLU the critic has
    kinks, and the best action is drawn to the nearest of them.
    """
    generator = Draws(seed, "ddpg", name).generator()
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((inputs, hidden), (hidden, hidden), (hidden, 1)):
        bound = 3e-3 if fan_out == 1 else 1 / math.sqrt(fan_in)
        layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.from_numpy(generator.uniform(-bound, bound, tuple(parameter.shape))))
        layers += [layer, nn.SiLU()]
    return nn.Sequential(*layers[:-1])

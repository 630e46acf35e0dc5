"""The controller that learns: one DDPG policy for all gated streams, trained while it acts, or before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from splitcom.config import ControlConfig, StreamConfig, StreamName
from splitcom.control import policy
from splitcom.control.base import Observation, Thresholds
from splitcom.control.environment import threshold_of
from splitcom.control.transitions import TRANSITIONS_FILE, Recorder, Transition, mean_reward, write
from splitcom.data.draws import Draws

# Gradient steps at each action of a run, all streams together.
UPDATES = 8


class Ddpg:
    """SplitCom's learned controller (arXiv 2602.10564), with the learner of `splitcom.control.ddpg`.

    At each `act` the transitions since the last one are closed and learned from, then the policy plus Gaussian noise
    sets every stream's threshold. Raises ConfigError for a policy file that does not fit.
    """

    acts: ClassVar[bool] = True

    def __init__(self, config: ControlConfig, streams: Mapping[StreamName, StreamConfig], seed: int) -> None:
        started = policy.read(Path(config.policy)) if config.policy else None
        # Imported here, because it brings torch, which the other controllers do without.
        from splitcom.control.ddpg import Learner

        self.noise = config.noise if config.learn else 0.0
        self._learner = Learner(seed)
        if started:
            self._learner.load(started.weights)
        self._trained_on = started.transitions if started else 0
        self._config = config
        self._streams = dict(streams)
        self._recorder = Recorder(self._streams)
        self._draws = {name: Draws(seed, "control", name).generator() for name in streams}
        self._reward: float | None = None

    def evaluated(self, perplexity: float) -> Thresholds:
        return {}

    def act(self, observations: Sequence[Observation]) -> Thresholds:
        self._learn(self._recorder.close(observations))
        thresholds: Thresholds = {}
        for seen in observations:
            action = self._learner.action(self._recorder.state(seen))
            if self.noise:
                action += self.noise * float(self._draws[seen.stream].standard_normal())
            action = max(-1.0, min(1.0, action))
            self._recorder.begin(seen, action)
            threshold = threshold_of(action, self._streams[seen.stream])
            if threshold != seen.threshold:
                thresholds[seen.stream] = threshold
        self.noise *= self._config.noise_decay
        return thresholds

    def values(self) -> dict[str, Any]:
        """`noise`, its standard deviation at the next action; `reward`, mean over streams of what the last actions
        earned; `critic_loss` of the last gradient step; `transitions` of this run. None for what is not known yet."""
        return {
            "noise": self.noise,
            "reward": self._reward,
            "critic_loss": self._learner.critic_loss,
            "transitions": len(self._recorder.transitions),
        }

    def save(self, directory: Path) -> None:
        """Write the transitions so far and the policy as it is now."""
        transitions = self._recorder.transitions
        write(directory / TRANSITIONS_FILE, transitions, self._config.byte_weight)
        trained_on = self._trained_on + (len(transitions) if self._config.learn else 0)
        now = policy.Policy(self._learner.weights(), trained_on, self._config.byte_weight)
        policy.write(directory / policy.POLICY_FILE, now)

    def _learn(self, closed: Sequence[Transition]) -> None:
        if not closed:
            return
        self._reward = mean_reward(closed, self._config.byte_weight)
        if not self._config.learn:
            return
        for transition in closed:
            reward = transition.reward(self._config.byte_weight)
            self._learner.replay.add(transition.state, transition.action, reward, transition.next_state)
        for _ in range(UPDATES):
            self._learner.update()

"""Threshold controllers by name; a new one is one class and one line here.

A controller is made of its configuration, the gated streams by name, and the run's seed. None of these modules
imports torch before a DDPG controller is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from splitcom.config import ControlConfig, StreamConfig, StreamName
from splitcom.control import policy
from splitcom.control.bang_bang import BangBang
from splitcom.control.base import Controller, Observation, Thresholds
from splitcom.control.fixed import Fixed
from splitcom.control.learned import Ddpg
from splitcom.control.random import Random

Kind = Callable[[ControlConfig, Mapping[StreamName, StreamConfig], int], Controller]

CONTROLLERS: dict[str, Kind] = {"fixed": Fixed, "bang-bang": BangBang, "ddpg": Ddpg, "random": Random}

# The gates whose threshold means something.
GATED = ("cosine", "relative_l2")


def gated(streams: Mapping[StreamName, StreamConfig]) -> dict[StreamName, StreamConfig]:
    """Of the given streams those that a controller may set: enabled, with a gate that has a threshold."""
    return {name: stream for name, stream in streams.items() if stream.enabled and stream.gate in GATED}


def check_control(config: ControlConfig) -> None:
    """Raise ConfigError for a policy file that cannot be used; that can be told before torch is imported."""
    if config.policy:
        policy.read(Path(config.policy))


__all__ = ["CONTROLLERS", "Controller", "Observation", "Thresholds", "check_control", "gated"]

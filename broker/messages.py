"""The typed messages, and encoding and strict decoding.

A field's annotation carries its check, so a dataclass is its own schema. Both directions run the same checks, hence
whatever encodes also decodes. The byte tables stand in docs/wire-format.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from broker.body import Body
from broker.checks import (
    U16,
    U32,
    Blob,
    ByStream,
    Flag,
    Last,
    Name,
    Real,
    Runs,
    Samples,
    Status,
    Steps,
    Table,
    Text,
)
from broker.errors import WireError
from broker.wire import Buffer


class Message:
    """Base of all messages; `code` is its type in the envelope, `channel` the topic it travels on."""

    __slots__ = ()
    code: ClassVar[int]
    channel: ClassVar[str]

    def __init_subclass__(cls, code: int | None = None, channel: str = "") -> None:
        if code is not None:  # a dataclass with slots is made twice, the second time without them
            cls.code, cls.channel = code, channel


@dataclass(frozen=True, slots=True)
class Hello(Message, code=1, channel="info"):
    """An agent introduces itself: who it is, which process, which protocol, how many samples, which frozen base."""

    client: Name
    boot: U32
    protocol: U16
    samples: U32
    base: Text
    software: Text


@dataclass(frozen=True, slots=True)
class Welcome(Message, code=2, channel="cmd"):
    """The server's answer to Hello: the settings of the run, for the process `boot`."""

    settings: Table
    boot: U32


@dataclass(frozen=True, slots=True)
class Begin(Message, code=3, channel="down"):
    """An epoch begins: a threshold per stream, and the averaged adapter (empty: keep yours)."""

    epoch: U32
    thresholds: ByStream
    adapter: Blob


@dataclass(frozen=True, slots=True)
class ActivationUp(Message, code=4, channel="up"):
    """One step's activations and labels, with the fate of earlier gradients: the last applied step and the refused."""

    step: U32
    epoch: U32
    packet: Blob
    labels: Blob
    applied: Last
    refused: Steps


@dataclass(frozen=True, slots=True)
class GradientDown(Message, code=5, channel="down"):
    """One step's gradients at the cut, which also accepts the step's activations; `loss` is the client's own mean."""

    step: U32
    packet: Blob
    loss: Real


@dataclass(frozen=True, slots=True)
class StepRefused(Message, code=6, channel="cmd"):
    """The server could not use a step; `keyframes` are the sample ids to send whole (empty: all of the step)."""

    step: U32
    reason: Text
    keyframes: Samples


@dataclass(frozen=True, slots=True)
class EpochEnd(Message, code=7, channel="up"):
    """An agent is past its shard: examples and steps of the epoch, its adapter, the fate of the last gradients."""

    epoch: U32
    examples: U32
    steps: U32
    adapter: Blob
    applied: Last
    refused: Steps


@dataclass(frozen=True, slots=True)
class End(Message, code=8, channel="cmd"):
    """The run is over, well or for a reason."""

    ok: Flag
    reason: Text


@dataclass(frozen=True, slots=True)
class Credit(Message, code=9, channel="ack"):
    """An agent has received so many chunks of a message of the server; paces the downlink, never seen by programs."""

    message: U32
    chunks: U16


@dataclass(frozen=True, slots=True)
class State(Message, code=10, channel="state"):
    """Presence of a client's process: retained, and "offline" is also the last will."""

    status: Status
    boot: U32


@dataclass(frozen=True, slots=True)
class Metrics(Message, code=11, channel="metrics"):
    """Progress figures, sent at most once and never needed."""

    values: Table


@dataclass(frozen=True, slots=True)
class Failure(Message, code=12, channel="ack"):
    """An agent cannot go on."""

    reason: Text


@dataclass(frozen=True, slots=True)
class Thresholds(Message, code=13, channel="down"):
    """New thresholds of the streams that are named; they hold from the agent's next packets on."""

    thresholds: ByStream


@dataclass(frozen=True, slots=True)
class UpHeld(Message, code=14, channel="cmd"):
    """What the server has of the messages of the agent's process `boot`.

    `complete` are ids; `partial` has a list for each message: its id, then first and last index of every run of chunks.
    With `resume` whatever is not named has to come again; without it `complete` are those since the last word.
    """

    boot: U32
    resume: Flag
    complete: Steps
    partial: Runs


@dataclass(frozen=True, slots=True)
class DownHeld(Message, code=15, channel="ack"):
    """The same of an agent, about the server's messages to it."""

    boot: U32
    resume: Flag
    complete: Steps
    partial: Runs


@dataclass(frozen=True, slots=True)
class Share(Message, code=16, channel="cmd"):
    """How many bytes an agent may have unconfirmed on one topic, so that all agents together do not fill the broker."""

    limit: U32


@dataclass(frozen=True, slots=True)
class ActivationDown(Message, code=20, channel="down"):
    """U-shape: one step's activations behind the body, for the client's tail."""

    step: U32
    packet: Blob


@dataclass(frozen=True, slots=True)
class GradientUp(Message, code=21, channel="up"):
    """U-shape: one step's gradients behind the body, which also accepts the step's ActivationDown.

    `loss` is the client's mean over its `target_tokens`.
    """

    step: U32
    packet: Blob
    loss: Real
    target_tokens: U32


MESSAGES: dict[int, type[Message]] = {
    1: Hello,
    2: Welcome,
    3: Begin,
    4: ActivationUp,
    5: GradientDown,
    6: StepRefused,
    7: EpochEnd,
    8: End,
    9: Credit,
    10: State,
    11: Metrics,
    12: Failure,
    13: Thresholds,
    14: UpHeld,
    15: DownHeld,
    16: Share,
    20: ActivationDown,
    21: GradientUp,
}


_BODIES = {kind: Body(kind) for kind in MESSAGES.values()}


def encode(message: Message) -> bytes:
    """The body of a message; WireError names the message and the field that is out of its range."""
    return _BODIES[type(message)].pack(message)


def decode(code: int, body: Buffer) -> Message:
    """The message of a body; WireError names the message and field for anything that `encode` would not have made."""
    kind = MESSAGES.get(code)
    if kind is None:
        raise WireError(f"message type {code} is unknown; valid: {', '.join(map(str, MESSAGES))}")
    return kind(*_BODIES[kind].unpack(body))

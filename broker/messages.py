"""The typed messages and their bodies: a msgpack array of the fields in their order, decoded strictly.

A field's annotation carries its check, so a dataclass is its own schema. Both directions run the same checks, hence
whatever encodes also decodes. The byte tables stand in docs/wire-format.md.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import msgpack

from broker.checks import (
    MAX_ITEMS,
    MAX_TEXT,
    U16,
    U32,
    Blob,
    ByStream,
    Check,
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


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """An agent introduces itself: who it is, which process, which protocol, how many samples, which frozen base."""

    code: ClassVar[int] = 1
    channel: ClassVar[str] = "info"
    client: Name
    boot: U32
    protocol: U16
    samples: U32
    base: Text
    software: Text


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The server's answer to Hello: the settings of the run, for the process `boot`."""

    code: ClassVar[int] = 2
    channel: ClassVar[str] = "cmd"
    settings: Table
    boot: U32


@dataclass(frozen=True, slots=True)
class Begin(Message):
    """An epoch begins: a threshold per stream, and the averaged adapter (empty: keep yours)."""

    code: ClassVar[int] = 3
    channel: ClassVar[str] = "down"
    epoch: U32
    thresholds: ByStream
    adapter: Blob


@dataclass(frozen=True, slots=True)
class ActivationUp(Message):
    """One step's activations and labels, with the fate of earlier gradients: the last applied step and the refused."""

    code: ClassVar[int] = 4
    channel: ClassVar[str] = "up"
    step: U32
    epoch: U32
    packet: Blob
    labels: Blob
    applied: Last
    refused: Steps


@dataclass(frozen=True, slots=True)
class GradientDown(Message):
    """One step's gradients at the cut, which also accepts the step's activations; `loss` is the client's own mean."""

    code: ClassVar[int] = 5
    channel: ClassVar[str] = "down"
    step: U32
    packet: Blob
    loss: Real


@dataclass(frozen=True, slots=True)
class StepRefused(Message):
    """The server could not use a step; `keyframes` are the sample ids to send whole (empty: all of the step)."""

    code: ClassVar[int] = 6
    channel: ClassVar[str] = "cmd"
    step: U32
    reason: Text
    keyframes: Samples


@dataclass(frozen=True, slots=True)
class EpochEnd(Message):
    """An agent is past its shard: examples and steps of the epoch, its adapter, the fate of the last gradients."""

    code: ClassVar[int] = 7
    channel: ClassVar[str] = "up"
    epoch: U32
    examples: U32
    steps: U32
    adapter: Blob
    applied: Last
    refused: Steps


@dataclass(frozen=True, slots=True)
class End(Message):
    """The run is over, well or for a reason."""

    code: ClassVar[int] = 8
    channel: ClassVar[str] = "cmd"
    ok: Flag
    reason: Text


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """An agent has received so many chunks of a message of the server; paces the downlink, never seen by programs."""

    code: ClassVar[int] = 9
    channel: ClassVar[str] = "ack"
    message: U32
    chunks: U16


@dataclass(frozen=True, slots=True)
class State(Message):
    """Presence of a client's process: retained, and "offline" is also the last will."""

    code: ClassVar[int] = 10
    channel: ClassVar[str] = "state"
    status: Status
    boot: U32


@dataclass(frozen=True, slots=True)
class Metrics(Message):
    """Progress figures, sent at most once and never needed."""

    code: ClassVar[int] = 11
    channel: ClassVar[str] = "metrics"
    values: Table


@dataclass(frozen=True, slots=True)
class Failure(Message):
    """An agent cannot go on."""

    code: ClassVar[int] = 12
    channel: ClassVar[str] = "ack"
    reason: Text


@dataclass(frozen=True, slots=True)
class Thresholds(Message):
    """New thresholds of the streams that are named; they hold from the agent's next packets on."""

    code: ClassVar[int] = 13
    channel: ClassVar[str] = "down"
    thresholds: ByStream


@dataclass(frozen=True, slots=True)
class UpHeld(Message):
    """What the server has of the messages of the agent's process `boot`.

    `complete` are ids; `partial` has a list for each message: its id, then first and last index of every run of chunks.
    With `resume` whatever is not named has to come again; without it `complete` are those since the last word.
    """

    code: ClassVar[int] = 14
    channel: ClassVar[str] = "cmd"
    boot: U32
    resume: Flag
    complete: Steps
    partial: Runs


@dataclass(frozen=True, slots=True)
class DownHeld(Message):
    """The same of an agent, about the server's messages to it."""

    code: ClassVar[int] = 15
    channel: ClassVar[str] = "ack"
    boot: U32
    resume: Flag
    complete: Steps
    partial: Runs


@dataclass(frozen=True, slots=True)
class ActivationDown(Message):
    """U-shape: one step's activations behind the body, for the client's tail."""

    code: ClassVar[int] = 20
    channel: ClassVar[str] = "down"
    step: U32
    packet: Blob


@dataclass(frozen=True, slots=True)
class GradientUp(Message):
    """U-shape: one step's gradients behind the body, which also accepts the step's ActivationDown.

    `loss` is the client's mean over its `target_tokens`.
    """

    code: ClassVar[int] = 21
    channel: ClassVar[str] = "up"
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
    20: ActivationDown,
    21: GradientUp,
}


def _schema(kind: type[Message]) -> list[tuple[str, Check]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return [(field.name, hints[field.name].__metadata__[0]) for field in fields(typing.cast(Any, kind))]


_SCHEMAS = {kind: _schema(kind) for kind in MESSAGES.values()}


def encode(message: Message) -> bytes:
    """The body of a message; WireError names the message and the field that is out of its range."""
    values = [getattr(message, name) for name, _ in _SCHEMAS[type(message)]]
    return typing.cast(bytes, msgpack.packb(_checked(type(message), values)))


def decode(code: int, body: Buffer) -> Message:
    """The message of a body; WireError names the message and field for anything that `encode` would not have made."""
    kind = MESSAGES.get(code)
    if kind is None:
        raise WireError(f"message type {code} is unknown; valid: {', '.join(map(str, MESSAGES))}")
    try:
        values = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_TEXT,
            max_bin_len=len(body),
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"{kind.__name__}: body is no msgpack of ours: {error or type(error).__name__}") from None
    count = len(_SCHEMAS[kind])
    if type(values) is not list or len(values) != count:
        found = f"{len(values)} fields" if type(values) is list else f"{type(values).__name__}"
        raise WireError(f"{kind.__name__}: body has {found} in place of an array of {count} fields")
    return kind(*_checked(kind, values))


def _checked(kind: type[Message], values: list[Any]) -> list[Any]:
    checked = []
    for (name, check), value in zip(_SCHEMAS[kind], values, strict=True):
        try:
            checked.append(check(value))
        except (ValueError, WireError) as error:
            raise WireError(f"{kind.__name__}.{name}: {error}") from None
    return checked

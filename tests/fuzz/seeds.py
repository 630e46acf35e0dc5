"""Inputs that the project's own encoders make, and what systematic damage makes of them; no chance in either."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from broker import messages, wire
from broker.packet_encoder import encode
from broker.packets import (
    ACKNOWLEDGEMENTS,
    V5,
    VERSIONS,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.properties import TABLE, PacketType, Properties, Property
from splitcom.labels import LabelSender
from splitcom.stream import StreamEncoder
from tests.fuzz.frame import ADAPTER, CHANNELS, CHOICES, Choice
from tests.fuzz.pieces import AS_IT_IS, MENDED, joined

_TEXTS = {
    Property.CONTENT_TYPE,
    Property.RESPONSE_TOPIC,
    Property.ASSIGNED_CLIENT_ID,
    Property.AUTHENTICATION_METHOD,
    Property.RESPONSE_INFORMATION,
    Property.SERVER_REFERENCE,
    Property.REASON_STRING,
}
_DATA = {Property.CORRELATION_DATA, Property.AUTHENTICATION_DATA}


def packet_seeds() -> Iterator[bytes]:
    """Every packet with and without properties in both versions, alone and in one stream, in pieces of two sizes."""
    for version, size in itertools.product(VERSIONS, (1, 100)):
        start = bytes((VERSIONS.index(version) | (size - 1) << 1,))
        streams = [encode(packet, version) for packet in _packets(version)]
        yield start + b"".join(streams)
        yield from (start + stream for stream in streams)


def _packets(version: int) -> Iterator[Packet]:
    kind = PacketType
    for full in (True, False) if version == V5 else (False,):

        def having(carrier: PacketType, full: bool = full) -> Properties:
            return _properties(carrier) if full else {}

        will = Will("w/t", b"gone", 1, True, having(kind.WILL))
        yield Connect("id", version, True, 60, will, "user", b"word", having(kind.CONNECT))
        yield Connect("", version, False, 0, None, None, None, having(kind.CONNECT))
        yield Connack(True, 0x87, having(kind.CONNACK))
        for qos in (0, 1, 2):
            yield Publish("a/b", b"payload", qos, qos == 1, qos == 2, 7 if qos else 0, having(kind.PUBLISH))
        for carrier, made in ACKNOWLEDGEMENTS.items():
            yield made(7, 0x10 if full else 0, having(carrier))
        requests = (Request("a/+", 1), Request("$share/g/#", 2, False, full, 2 if full else 0))
        yield Subscribe(7, requests, having(kind.SUBSCRIBE))
        yield Suback(7, (0, 1, 0x80), having(kind.SUBACK))
        yield Unsubscribe(7, ("a/+", "b"), having(kind.UNSUBSCRIBE))
        yield Unsuback(7, (0, 17) if version == V5 else (), having(kind.UNSUBACK))
        yield Disconnect(0x8E if full else 0, having(kind.DISCONNECT))
        if version == V5:
            yield Publish("", b"p", properties={Property.TOPIC_ALIAS: 3})
            yield Auth(0x18 if full else 0, having(kind.AUTH))
    yield from (Pingreq(), Pingresp(), Publish("large", bytes(20_000)), Publish("medium", bytes(300)))


def _properties(carrier: PacketType) -> Properties:
    return {name: _value(name) for name, (_, carriers) in TABLE.items() if carrier in carriers}


def _value(name: Property) -> object:
    if name is Property.USER_PROPERTY:
        return (("k", "v"), ("k", "é"))
    if name is Property.SUBSCRIPTION_ID:
        return (300,)
    return "t" if name in _TEXTS else b"d" if name in _DATA else 1


def wire_seeds() -> Iterator[bytes]:
    """Every message alone; then messages in many chunks: in order, reversed, repeated, of two boots, of ids that fall
    out of memory, and more at once than are kept."""
    bodies = [(message.code, messages.encode(message)) for message in _messages()]
    for code, body in bodies:
        yield sent(chunks(code, body, 1))
    long = messages.encode(messages.GradientDown(1, bytes(range(100)), 0.5))
    parts = chunks(5, long, 9, size=20)
    yield from (sent(order) for order in (parts, parts[::-1], parts[:3] + parts, parts + parts))
    yield sent(parts[:2] + chunks(5, long, 1, boot=2) + parts[2:])
    yield sent(itertools.chain.from_iterable(chunks(*bodies[0], number) for number in (1, 2, 3, 4, 5, 6, 1)))
    yield sent(itertools.chain.from_iterable(chunks(5, long, number, size=20)[:1] for number in range(1, 8)))
    yield sent([parts[0], chunks(5, long[:-1], 9, size=20)[1]])
    yield sent(_uneven(long, [7, 30, 20, 20, len(long) - 77]))
    yield sent(_uneven(long, [20, 20, 7, 33, len(long) - 80])[::-1])
    for mode in (AS_IT_IS, MENDED):
        yield joined([(mode, b""), (mode, b"SC\2"), (mode, b"SC\1"), (mode, parts[0][:-1])])


def _messages() -> Iterator[messages.Message]:
    yield messages.Hello("agent0", 7, 1, 100, "base", "software")
    yield messages.Welcome({"a": [1, None, True, 1.5, "t", b"b", {"n": -1}]}, 7)
    yield messages.Begin(0, {"activation_up": 0.5, "gradient_down": 1}, b"adapter")
    yield messages.ActivationUp(1, 0, b"packet", b"labels", -1, [3, 4])
    yield messages.GradientDown(1, b"packet", float("nan"))
    yield messages.StepRefused(1, "why", [2**64 - 1])
    yield messages.EpochEnd(0, 24, 3, b"", 2, [])
    yield messages.End(True, "")
    yield messages.Credit(258, 32)
    yield messages.State("online", 1)
    yield messages.Metrics({})
    yield messages.Failure("no disk")
    yield messages.Thresholds({"gradient_up": 0.75})
    yield messages.UpHeld(7, True, [1, 2], [[3, 0, 4, 6, 6]])
    yield messages.DownHeld(7, False, [], [])
    yield messages.DownHeld(7, True, [1], [[2, 0, 0, 2, 3]])
    yield messages.Share(1 << 20)
    yield messages.ActivationDown(7, b"p")
    yield messages.GradientUp(7, b"p", 1.5, 300)


def chunks(code: int, body: bytes, message_id: int, boot: int = 1, size: int = 1000) -> list[bytes]:
    """The payloads of one message."""
    return [header + bytes(chunk) for header, chunk in wire.split(code, boot, message_id, body, size, credit=2)]


def _uneven(body: bytes, sizes: list[int]) -> list[bytes]:
    """One message in chunks of these sizes, which no sender of ours makes."""
    ends = list(itertools.accumulate(sizes))
    headers = [header for header, _ in wire.split(5, 1, 9, body, -(-len(body) // len(sizes)))]
    assert len(headers) == len(sizes)
    return [header + body[end - size : end] for header, size, end in zip(headers, sizes, ends, strict=True)]


def sent(payloads: Iterable[bytes]) -> bytes:
    """The input for payloads with right checksums."""
    return joined((MENDED, payload) for payload in payloads)


def frame_seeds() -> Iterator[bytes]:
    """For every choice two steps, of which the second stands on the first; what compresses and what does not."""
    for number, choice in enumerate(CHOICES):
        for flat in (True, False):
            packets = _ENCODERS[choice.kind](choice, flat)
            yield bytes((number,)) + joined((MENDED, packet[:-4]) for packet in packets)
    yield bytes(1) + joined((AS_IT_IS, packet) for packet in _labels(CHOICES[0], True))


def _tensors(flat: bool) -> list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    rows = np.ones((40, CHANNELS)) if flat else np.sin(np.arange(1, 40 * CHANNELS + 1)).reshape(40, CHANNELS)
    return [rows.astype(np.float32), np.zeros((1, CHANNELS), np.float32)]


def _stream(choice: Choice, flat: bool) -> list[bytes]:
    encoder = StreamEncoder("activation_up", choice.stream(), CHANNELS, 0)
    first = encoder.encode(0, [5, 300], _tensors(flat)).data
    encoder.accept(0)
    return [first, encoder.encode(1, [300, 6, 5], [*_tensors(flat)[::-1], _tensors(flat)[0]]).data]


def _adapter(choice: Choice, flat: bool) -> list[bytes]:
    stream = choice.adapter()
    state = {name: tensor * (1 if flat else 1.5) for name, tensor in ADAPTER.items()}
    return [stream.encode_up(state), stream.encode_down(state)]


def _labels(_: Choice, flat: bool) -> list[bytes]:
    sender = LabelSender()
    return [sender.encode(step, [(step, 3, [1, 2, 3]), (9, 0, [7 if flat else 70_000])]) for step in (0, 1)]


_ENCODERS = {"stream": _stream, "adapter": _adapter, "labels": _labels}

SEEDS = {"packet": packet_seeds, "wire": wire_seeds, "frame": frame_seeds}


def damaged(seed: bytes, reach: int = 200) -> Iterator[bytes]:
    """The seed with each of its first `reach` bytes changed in some ways or left out, cut there, or one byte longer."""
    for at in range(min(len(seed), reach)):
        head, byte, tail = seed[:at], seed[at], seed[at + 1 :]
        yield from (head + bytes((changed,)) + tail for changed in (0, 0xFF, byte ^ 1, byte ^ 2, byte ^ 0x80))
        yield head
        yield head + tail
    yield seed + b"\0"

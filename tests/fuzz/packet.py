"""MQTT: a stream of bytes through the framer and the packet codec, as a connection takes it.

The stream is read twice, all at once and in pieces with a pause after each packet, which has to come to the same;
whatever was decoded has to survive encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.errors import ProtocolError
from broker.framer import SCRATCH_BYTES, Framer
from broker.packet_decoder import decode, peek_version
from broker.packet_encoder import encode
from broker.packets import VERSIONS, Connect, Packet
from broker.properties import PacketType
from broker.reasons import Reason

MAX_PACKET_BYTES = 1 << 14
_SCRATCH = memoryview(bytearray(SCRATCH_BYTES))


def run(data: bytes) -> set[str]:
    """Bit 0 of the first byte is the version (3.1.1, 5), the others are the size of a piece less one."""
    if not data:
        return set()
    version, size, stream = VERSIONS[data[0] & 1], 1 + (data[0] >> 1), data[1:]
    packets, refusal = received(stream, [len(stream)], version)
    again = received(stream, [size] * (len(stream) // size + 1), version, hold=True)
    assert again == (packets, refusal), f"cut into {size} bytes: {again} in place of {packets}, {refusal}"
    for packet in packets:
        spoken = packet.version if isinstance(packet, Connect) else version
        whole = encode(packet, spoken)
        assert received(whole, [len(whole)], spoken) == ([packet], ""), f"{packet} does not survive encoding"
    return {refusal, *(found for packet in packets for found in _outcomes(packet, version))}


def received(
    stream: bytes, sizes: Iterable[int], version: int, hold: bool = False, scratch: memoryview = _SCRATCH
) -> tuple[list[Packet], str]:
    """The packets of a stream that comes in pieces of these sizes, and the reason why it ends early, if it does.

    With `hold` the framer is held after each packet and has to go on from there.
    """
    framer = Framer(scratch, MAX_PACKET_BYTES)
    packets: list[Packet] = []
    at = 0
    try:
        for size in sizes:
            stop = min(at + size, len(stream))
            while at < stop:
                room = framer.buffer()
                length = min(len(room), stop - at)
                room[:length] = stream[at : at + length]
                at += length
                for first, body in _cut(framer, length, hold):
                    if first >> 4 == PacketType.CONNECT:
                        peek_version(body)
                    packets.append(decode(first, body, version))
    except ProtocolError as error:
        text = str(error)
        assert text.isprintable(), f"{text!r} is no line"
        return packets, f"{Reason(error.reason_code).name}: {text}"
    return packets, ""


def _cut(framer: Framer, size: int, hold: bool) -> Iterator[tuple[int, memoryview]]:
    framer.hold = hold
    given = True
    while given:
        given = False
        for packet in framer.received(size):
            assert not (given and hold), "a framer that is held gives another packet"
            given = True
            yield packet
        if not hold:
            return
        size = 0
        framer.buffer()


def _outcomes(packet: Packet, version: int) -> set[str]:
    properties = getattr(packet, "properties", {})
    kind = f"{type(packet).__name__} {version}"
    return {kind, *(f"{kind} {name.name}" for name in properties)}

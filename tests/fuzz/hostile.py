"""Hand-made inputs that no encoder makes and no single damage either: what the decoders guard against, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack

from splitcom.codec import LOSSLESS
from tests.fuzz.frame import CHANNELS, CHOICES, Choice
from tests.fuzz.pieces import MENDED, joined
from tests.fuzz.seeds import chunks, sent

V311_BYTE, V5_BYTE = b"\0", b"\1"

PACKETS = [
    b"\x30\xff\xff\xff\xff\x01",
    b"\x30\xff\xff\xff\x7f",
    b"\x30\x80\x00",
    b"\x82\x02\x00\x01",
    b"\x82\x03\x00\x01\x00",
    b"\xa2\x02\x00\x01",
    b"\xa2\x03\x00\x01\x00",
    b"\x30\x08\x00\x01a\xff\xff\xff\xff\x01",
    b"\x30\x09\x00\x01a\x05\x0b\xff\xff\xff\xff",
    b"\x30\x05\x00\x03\xed\xa0\x80",
    b"\x30\x04\x00\x02\xc0\x80",
    b"\x30\x00",
    b"\x10\x0c\x00\x06MQIsdp\x03\x02\x00\x00",
    b"\x10\x0c\x00\x04MQTT\x04\x40\x00\x00\x00\x00",
    b"\x10\x0c\x00\x04MQTT\x04\x1e\x00\x00\x00\x00",
    b"\xf0\x00",
    b"\x00\x00",
]


def hostile_packets() -> Iterator[bytes]:
    """Each in both versions."""
    for packet in PACKETS:
        yield V311_BYTE + packet
        yield V5_BYTE + packet


_RUNS: list[list[Any]] = [
    [[]],
    [7],
    [[1]],
    [[1, 0]],
    [[2**32, 0, 0]],
    [[1, 0, 65535]],
    [[1, 5, 4]],
    [[1, 0, 4, 4, 5]],
    [[1, *range(1002)]],
    [[1, *range(1000)]] * 9,
    [[2, 0, 65534], [2, 1, 1]],
]


def hostile_payloads() -> Iterator[bytes]:
    """Bodies that are msgpack, and no message of ours."""
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    bodies = [
        (3, [1, {"activation_up": float("nan")}, b""]),
        (3, [1, {b"bytes": 0.5}, b""]),
        (2, [{"deep": deep}, 1]),
        (2, [{"time": msgpack.Timestamp(1)}, 1]),
        (2, [{1: 1}, 1]),
        (9, {"message": 1, "chunks": 1}),
        (9, [2**32, 1]),
        (9, [1, True]),
        (10, ["away", 1]),
        (6, [1, "x", [-1]]),
        (1, ["a/b", 1, 1, 1, "", ""]),
        *((code, [7, True, [], partial]) for code in (14, 15) for partial in _RUNS),
        (9, [2, 65535]),
    ]
    for code, values in bodies:
        yield sent(chunks(code, msgpack.packb(values), 1))
    bombs = [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x92\xc6\xff\xff\xff\xff", b"\x92\xdb\xff\xff\xff\xff"]
    for bomb in (*bombs, b"\x91" * 600, b"\xdc\x10\x00" * 200, b"\xc1", b""):
        yield sent(chunks(2, bomb, 1))
    yield sent(chunks(99, b"", 1))
    yield sent(chunks(5, bytes(5000), 1, size=4000))
    yield sent(chunks(5, bytes(4000), number, size=2000)[0] for number in (1, 2))


FRAMES: list[list[list[int]]] = [
    [[0, 2**63, 1, 1]],
    [[2, 7, 1, 1], [2, 7, 1, 1]],
    [[2, 7, 2**32, 1]],
    [[3, 7, 1, 1]],
    [[0, 7, 1, 0]],
    [[0, 7, 1, 51]],
    [[2, 7, 1, 1]],
    [[0, 7, 1, 50]],
    [[2, number, 1, 1] for number in range(5)],
]
LABELS: list[list[list[Any]]] = [
    [[1, 2, 1], [1, 51, b"\1\0"]],
    [[1, 2, 1], [1, 0, b"\xff\xff"]],
    [[1, 3, 1]],
    [[1, 2, 9]],
    [[1, 2, 0]],
]


def hostile_packed() -> Iterator[bytes]:
    """Frames and labels out of bounds, and bodies that are larger or smaller than the packet says."""
    for frames in FRAMES:
        yield _first("stream", "int8", "lz4") + _packed([1, 0, 2, 1, CHANNELS, len(frames)], *frames, b"\x0f")
    for labels in LABELS:
        yield _first("labels") + _packed(*labels)
    for code, codec in enumerate(("fp32", "fp16", "int8")):
        for name, stage in LOSSLESS.items():
            for body in (bytes(1 << 20), b"\xff" * 600, b"\x80" * 600):
                header = [1, 0, code, stage.code, CHANNELS, 1]
                yield _first("stream", codec, name) + _packed(header, [0, 7, 1, 50], stage.compress(body)[:60_000])


def _packed(*parts: Any) -> bytes:
    return joined([(MENDED, b"".join(map(msgpack.packb, parts)))])


def _first(kind: str, codec: str = "", stage: str = "") -> bytes:
    return bytes((CHOICES.index(Choice(kind, codec, stage)),))


HOSTILE = {"packet": hostile_packets, "wire": hostile_payloads, "frame": hostile_packed}

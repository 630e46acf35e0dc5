"""An input as a sequence of pieces, each with a mode byte, so that a fuzzer can damage one and leave the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

AS_IT_IS, MENDED = 0, 1
"""Modes: the piece goes to the decoder unchanged, or with its checksum set right first."""


def joined(pieces: Iterable[tuple[int, bytes]]) -> bytes:
    """Mode, two bytes of length (little-endian), the piece; at most 65535 bytes each."""
    return b"".join(bytes((mode,)) + len(piece).to_bytes(2, "little") + piece for mode, piece in pieces)


def cut(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(mode, piece) of any bytes: a length that is too large takes all that is left."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "little")
        yield data[at] & 1, data[at + 3 : at + 3 + size]
        at += 3 + size

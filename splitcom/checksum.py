"""The checksum behind everything that the streams send: CRC-32 (that of zlib), big-endian, over all bytes before it."""

from __future__ import annotations

import zlib

from splitcom.errors import CodecError

CRC_BYTES = 4


def sealed(content: bytes) -> bytes:
    """The content with its checksum."""
    return content + zlib.crc32(content).to_bytes(CRC_BYTES, "big")


def unsealed(data: bytes, what: str) -> memoryview:
    """The content, not copied; CodecError naming `what` unless the checksum behind it is right."""
    content = memoryview(data)[:-CRC_BYTES]
    if len(data) <= CRC_BYTES or zlib.crc32(content).to_bytes(CRC_BYTES, "big") != data[-CRC_BYTES:]:
        raise CodecError(f"{what}: wrong checksum")
    return content

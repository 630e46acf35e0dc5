"""The envelope: one fixed header per chunk, and the cutting of a body into chunks. Byte tables: docs/wire-format.md."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from broker.errors import VersionError, WireError

Buffer = bytes | bytearray | memoryview

MAGIC = b"SC"
VERSION = 1
HEADER = struct.Struct(">2sBBBBHHIIII")
MAX_CHUNKS = 2**16 - 1
USUAL_BYTES = 2**16
"""The chunk where nothing says otherwise; any smaller body is one chunk."""

_NO_CRC = bytes(4)


@dataclass(frozen=True, slots=True)
class Envelope:
    """One chunk with its header; `chunk` are the bytes at `index` of `count`, `total` the length of the whole body."""

    message_type: int
    credit: int
    index: int
    count: int
    boot: int
    message_id: int
    total: int
    chunk: memoryview


def split(
    message_type: int, boot: int, message_id: int, body: Buffer, chunk_bytes: int, credit: int = 0
) -> Iterator[tuple[bytes, memoryview]]:
    """Cut a body into (header, chunk) pairs of `chunk_bytes` bytes, the last one shorter; an empty body is one chunk.

    `credit` asks the receiver for a Credit after every so many chunks, 0 for none. WireError when the body needs more
    than 65535 chunks.
    """
    for index in range(chunk_count(len(body), chunk_bytes)):
        yield cut(message_type, boot, message_id, body, chunk_bytes, index, credit)


def cut(
    message_type: int, boot: int, message_id: int, body: Buffer, chunk_bytes: int, index: int, credit: int = 0
) -> tuple[bytes, memoryview]:
    """One chunk of a body as (header, chunk), where the chunk is a view; see `split`."""
    count = chunk_count(len(body), chunk_bytes)
    if count > MAX_CHUNKS:
        raise WireError(f"{len(body)} bytes in chunks of {chunk_bytes} are {count} chunks, more than {MAX_CHUNKS}")
    chunk = memoryview(body)[index * chunk_bytes : (index + 1) * chunk_bytes]
    header = HEADER.pack(MAGIC, VERSION, message_type, 0, credit, index, count, boot, message_id, len(body), 0)
    return header[:-4] + zlib.crc32(chunk, zlib.crc32(header)).to_bytes(4, "big"), chunk


def chunk_count(length: int, chunk_bytes: int) -> int:
    """The number of chunks of a body of `length` bytes, at least one."""
    return max(1, -(-length // chunk_bytes))


def parse(data: Buffer) -> Envelope:
    """Read one chunk; VersionError for another version, WireError for what is no sound chunk."""
    view = memoryview(data)
    if view[:2] != MAGIC or len(view) < 3:
        raise WireError(f"{len(view)} bytes do not begin with the magic of an envelope")
    if view[2] != VERSION:
        raise VersionError(f"the envelope has version {view[2]}, this end speaks version {VERSION}")
    if len(view) < HEADER.size:
        raise WireError(f"{len(view)} bytes are shorter than an envelope's header of {HEADER.size}")
    header, chunk = view[: HEADER.size], view[HEADER.size :]
    _, _, kind, flags, credit, index, count, boot, message_id, total, crc = HEADER.unpack(header)
    if zlib.crc32(chunk, zlib.crc32(_NO_CRC, zlib.crc32(header[:-4]))) != crc:
        raise WireError(f"a chunk of {len(chunk)} bytes has a wrong checksum")
    if flags:
        raise WireError(f"envelope flags 0x{flags:02x} are unknown")
    if index >= count:
        raise WireError(f"chunk {index} of a message of {count} chunks")
    lengths = [total] if count == 1 else range(1, total - count + 2)
    if len(chunk) not in lengths:
        raise WireError(f"{len(chunk)} bytes as chunk {index} of {count} do not fit into {total} bytes")
    return Envelope(kind, credit, index, count, boot, message_id, total, chunk)

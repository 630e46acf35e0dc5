"""The byte layout of a packet: the frames of one stream in one step, their bodies, and a checksum.

`docs/wire-format.md` has the byte tables. The parser accepts header and frames only as `pack` writes them, and bodies
only of the exact size that the frames say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from splitcom.checksum import CRC_BYTES, sealed, unsealed
from splitcom.codec import CODECS, LOSSLESS
from splitcom.config import StreamName
from splitcom.errors import CodecError, choices

VERSION = 1
STREAM_CODES: dict[StreamName, int] = {
    "activation_up": 0,
    "gradient_down": 1,
    "activation_down": 2,
    "gradient_up": 3,
}
KEYFRAME, RESIDUAL, SKIP = 0, 1, 2
KINDS = {"keyframe": KEYFRAME, "residual": RESIDUAL, "skip": SKIP}

MAX_SAMPLES = MAX_TOKENS = 2**16 - 1
MAX_SAMPLE_ID = 2**63 - 1
MAX_U32 = 2**32 - 1


@dataclass(frozen=True)
class Layout:
    """What both ends of a stream have agreed on, and the bounds that a packet must keep."""

    stream: StreamName
    codec: str
    lossless: str
    channels: int
    max_samples: int = MAX_SAMPLES
    max_tokens: int = MAX_TOKENS


@dataclass(frozen=True)
class Keyframe:
    """A whole tensor of `tokens` tokens, coded as `body`; decodable on its own."""

    sample_id: int
    generation: int
    tokens: int
    body: bytes | memoryview

    def head(self) -> list[int]:
        """The frame without its body, as it stands in the packet."""
        return [KEYFRAME, self.sample_id, self.generation, self.tokens]


@dataclass(frozen=True)
class Skip:
    """Nothing but the name of the reference that the receiver shall use."""

    sample_id: int
    generation: int
    digest: int

    def head(self) -> list[int]:
        """The frame as it stands in the packet."""
        return [SKIP, self.sample_id, self.generation, self.digest]


Frame = Keyframe | Skip


@dataclass(frozen=True)
class Count:
    """Frames of one kind and their bytes, bodies as packed."""

    frames: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class PacketStats:
    """Where a packet's bytes are, and what each stage left of the batch.

    The bytes of all `kinds` (keyframe, residual, skip) and `framing_bytes` (packet header, length of the bodies,
    checksum) add up to the packet. Stages: `raw_bytes` float32 of all tokens of the batch, `gated_bytes` of the tokens
    that were sent, `coded_bytes` after the codec, `packed_bytes` after the lossless stage. `similarities` are those the
    gate has looked at, `forced` counts keyframes sent because the sample was marked; both are the encoder's alone.
    """

    kinds: dict[str, Count]
    framing_bytes: int
    gated_bytes: int
    coded_bytes: int
    packed_bytes: int
    raw_bytes: int = 0
    similarities: tuple[float, ...] = field(default=())
    forced: int = 0

    def stages(self) -> dict[str, int]:
        """Bytes after each stage, in order."""
        return {
            "raw": self.raw_bytes,
            "gated": self.gated_bytes,
            "coded": self.coded_bytes,
            "packed": self.packed_bytes,
        }

    @property
    def total_bytes(self) -> int:
        """The length of the packet."""
        return self.framing_bytes + sum(count.bytes for count in self.kinds.values())


def pack(layout: Layout, frames: Sequence[Frame]) -> tuple[bytes, PacketStats]:
    """A packet with the frames in order; its stats lack what only the stream knows: raw bytes and what the gate saw."""
    coded = b"".join(frame.body for frame in frames if isinstance(frame, Keyframe))
    stage = LOSSLESS[layout.lossless]
    packed = stage.compress(coded)
    if len(packed) >= len(coded):
        stage, packed = LOSSLESS["none"], coded
    head, stats = _head(layout, stage.code, frames, len(coded), len(packed))
    content = head + packed
    return sealed(content), stats


def parse(layout: Layout, packet: bytes) -> tuple[list[Frame], PacketStats]:
    """The frames of a packet and the same stats that `pack` gave.

    Any other bytes raise CodecError with one line: wrong checksum, version, stream, codec, lossless stage or number of
    channels, a field of the wrong type or out of bounds, a sample id that occurs twice, bytes that are left over, or
    integers that are not in their shortest form.
    """
    content = unsealed(packet, "packet")
    header, heads, packed = _fields(content, layout.max_samples)
    lossless = _check_header(layout, header)
    codec = CODECS[layout.codec]
    _check_frames(layout, heads)
    sizes = [codec.size(head[3], layout.channels) if head[0] == KEYFRAME else 0 for head in heads]
    bodies = memoryview(LOSSLESS[lossless].decompress(packed, sum(sizes)))
    frames = list(_frames(heads, sizes, bodies))
    canonical, stats = _head(layout, LOSSLESS[lossless].code, frames, len(bodies), len(packed))
    if canonical + packed != content:
        raise CodecError("packet: fields that are not in their shortest form, or bytes left over")
    return frames, stats


def _head(
    layout: Layout, lossless_code: int, frames: Sequence[Frame], coded: int, packed: int
) -> tuple[bytes, PacketStats]:
    """Everything of a packet before the packed bodies, and the stats of the whole."""
    header = [VERSION, STREAM_CODES[layout.stream], CODECS[layout.codec].code, lossless_code, layout.channels]
    head = bytearray(msgpack.packb([*header, len(frames)]))
    frames_of, bytes_of = [0, 0, 0], [packed, 0, 0]
    tokens = 0
    for frame in frames:
        fields = frame.head()
        data = msgpack.packb(fields)
        head += data
        frames_of[fields[0]] += 1
        bytes_of[fields[0]] += len(data)
        tokens += frame.tokens if isinstance(frame, Keyframe) else 0
    head += _bin_header(packed)
    kinds = {name: Count(frames_of[kind], bytes_of[kind]) for name, kind in KINDS.items()}
    framing = len(head) + packed + CRC_BYTES - sum(bytes_of)
    return bytes(head), PacketStats(kinds, framing, 4 * tokens * layout.channels, coded, packed)


def _bin_header(size: int) -> bytes:
    """The shortest msgpack header of `size` binary bytes."""
    if size < 2**8:
        return bytes((0xC4, size))
    return b"\xc5" + size.to_bytes(2, "big") if size < 2**16 else b"\xc6" + size.to_bytes(4, "big")


def _fields(content: memoryview, max_samples: int) -> tuple[list[int], list[list[int]], bytes]:
    """Header, frame heads and packed bodies, each of the right type; what follows them is for the caller to find."""
    unpacker = msgpack.Unpacker(
        raw=True,
        max_buffer_size=len(content),
        max_bin_len=len(content),
        max_array_len=6,
        max_map_len=0,
        max_str_len=0,
        max_ext_len=0,
    )
    try:
        unpacker.feed(content)
        header = _integers(unpacker.unpack(), 6, "header")
        if header[5] > max_samples:
            raise CodecError(f"packet: {header[5]} samples; valid: at most {max_samples}")
        heads = [_integers(unpacker.unpack(), 4, "frame") for _ in range(header[5])]
        packed = unpacker.unpack()
    except (ValueError, msgpack.UnpackException) as error:
        raise CodecError(f"packet: no msgpack of ours ({type(error).__name__})") from None
    if type(packed) is not bytes:
        raise CodecError(f"packet: bodies of type {type(packed).__name__}; valid: bin")
    return header, heads, packed


def _integers(value: Any, length: int, what: str) -> list[int]:
    if type(value) is not list or len(value) != length or not all(type(x) is int and x >= 0 for x in value):
        raise CodecError(f"packet: {what} is no array of {length} integers of 0 or more")
    return value


def _check_header(layout: Layout, header: list[int]) -> str:
    """The name of the lossless stage that was applied."""
    version, stream, codec, lossless, channels, _ = header
    if version != VERSION:
        raise CodecError(f"packet: version {version}; valid: {VERSION}")
    if stream != STREAM_CODES[layout.stream]:
        raise CodecError(f"packet: stream code {stream}; valid: {STREAM_CODES[layout.stream]} ({layout.stream})")
    if codec != CODECS[layout.codec].code:
        raise CodecError(f"packet: codec code {codec}; valid: {CODECS[layout.codec].code} ({layout.codec})")
    if channels != layout.channels:
        raise CodecError(f"packet: {channels} channels; valid: {layout.channels}")
    stages = {LOSSLESS[name].code: name for name in ("none", layout.lossless)}
    if lossless not in stages:
        raise CodecError(f"packet: lossless code {lossless}; {choices(stages)}")
    return stages[lossless]


def _check_frames(layout: Layout, heads: list[list[int]]) -> None:
    seen = set()
    for kind, sample_id, generation, last in heads:
        if kind not in (KEYFRAME, SKIP):
            raise CodecError(f"packet: frame kind {kind}; valid: {KEYFRAME} (keyframe), {SKIP} (skip)")
        if sample_id > MAX_SAMPLE_ID or sample_id in seen:
            raise CodecError(f"packet: sample id {sample_id} occurs twice or is above {MAX_SAMPLE_ID}")
        if generation > MAX_U32 or last > MAX_U32:
            raise CodecError(f"packet: sample {sample_id} has a generation or digest of more than 32 bits")
        if kind == KEYFRAME and not 1 <= last <= layout.max_tokens:
            raise CodecError(f"packet: sample {sample_id} of {last} tokens; valid: 1 to {layout.max_tokens}")
        seen.add(sample_id)


def _frames(heads: list[list[int]], sizes: list[int], bodies: memoryview) -> Iterator[Frame]:
    at = 0
    for (kind, sample_id, generation, last), size in zip(heads, sizes, strict=True):
        if kind == SKIP:
            yield Skip(sample_id, generation, last)
        else:
            yield Keyframe(sample_id, generation, last, bodies[at : at + size])
            at += size

"""The method's packets: tensors, labels and adapters through checksum, msgpack, LZ4 or Zstandard, and codec."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from splitcom.adapter_stream import AdapterStream
from splitcom.checksum import sealed
from splitcom.config import AdaptersConfig, StreamConfig
from splitcom.errors import CodecError
from splitcom.labels import LabelReceiver
from splitcom.stream import StreamDecoder
from tests.fuzz.pieces import MENDED, cut

CHANNELS, MAX_TOKENS, MAX_SAMPLES, VOCABULARY = 3, 50, 4, 1000
CODECS, STAGES = ("fp32", "fp16", "int8"), ("none", "lz4", "zstd")
ADAPTER = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(3, 2)}


@dataclass(frozen=True)
class Choice:
    """What both ends agreed on: tensors, adapters or labels, the codec and the lossless stage."""

    kind: str
    codec: str = ""
    stage: str = ""

    def stream(self) -> StreamConfig:
        """The settings of a stream of tensors."""
        return StreamConfig(gate="once", codec=self.codec, lossless=self.stage)  # type: ignore[arg-type]

    def adapter(self) -> AdapterStream:
        """One end of a stream of adapters that begins at ADAPTER."""
        return AdapterStream(ADAPTER, AdaptersConfig(codec=self.codec, lossless=self.stage))  # type: ignore[arg-type]


CHOICES = [Choice("labels"), *itertools.starmap(Choice, itertools.product(("stream", "adapter"), CODECS, STAGES))]


def run(data: bytes) -> set[str]:
    """The first byte is the choice; each piece is one packet, a mended one gets its checksum appended."""
    if not data:
        return set()
    choice = CHOICES[data[0] % len(CHOICES)]
    decode = _DECODERS[choice.kind](choice)
    outcomes = set()
    for step, (mode, piece) in enumerate(cut(data[1:])):
        try:
            decode(step, sealed(piece) if mode == MENDED else piece)
            outcomes.add(f"{choice} decodes")
        except CodecError as error:
            assert str(error).isprintable(), f"{str(error)!r} is no line"
            outcomes.add(f"{choice.kind} {type(error).__name__}: {error}")
    return outcomes


def _stream(choice: Choice) -> Callable[[int, bytes], None]:
    decoder = StreamDecoder("activation_up", choice.stream(), CHANNELS, 0, MAX_TOKENS, MAX_SAMPLES)

    def decode(step: int, packet: bytes) -> None:
        tensors = decoder.decode(step, packet).tensors
        decoder.accept(step)
        assert len(tensors) <= MAX_SAMPLES
        assert all(tensor.nbytes <= 4 * CHANNELS * MAX_TOKENS for tensor in tensors)

    return decode


def _adapter(choice: Choice) -> Callable[[int, bytes], None]:
    stream = choice.adapter()

    def decode(step: int, data: bytes) -> None:
        decoded = (stream.decode_down if step % 2 else stream.decode_up)(data)
        assert all(torch.isfinite(tensor).all() for tensor in decoded.values())

    return decode


def _labels(_: Choice) -> Callable[[int, bytes], None]:
    receiver = LabelReceiver(MAX_SAMPLES, MAX_TOKENS, VOCABULARY)

    def decode(step: int, data: bytes) -> None:
        receiver.decode(step, data)
        receiver.accept(step)

    return decode


_DECODERS = {"stream": _stream, "adapter": _adapter, "labels": _labels}

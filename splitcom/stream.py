"""A stream: one tensor in one direction, with the encoder at one end and the decoder at the other.

The two ends hold the same references because both follow the same rules:

* A keyframe is decodable on its own and becomes its sample's reference, tentatively until its step is accepted.
* A skip stands on the held reference that it names by generation and digest. The encoder skips only on a reference
  that is held, not tentative, and not in doubt; the decoder accepts a skip only if it holds just that reference.
* The decoder's owner decides a step (`accept` or `refuse`) and tells the encoder's owner, who calls the same on the
  encoder, or `lose` when no answer came. What an answer leaves open is put in doubt: the sample's next frame is a
  keyframe, and only the acceptance of a keyframe sent after the doubt arose removes it.
* Answers may come late, repeated or in any order: the accepted reference of the highest step is the one held, and an
  answer about a step that is not in flight (never sent, already decided, given up) changes nothing.

A skip is an approximation: the receiver computes with the reference, not with the tensor of this step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from splitcom.codec import CODECS, Tensor
from splitcom.codec.base import check_finite
from splitcom.config import StreamConfig, StreamName, check
from splitcom.errors import CodecError, DesyncError
from splitcom.frame import (
    MAX_SAMPLE_ID,
    MAX_SAMPLES,
    MAX_TOKENS,
    Frame,
    Keyframe,
    Layout,
    PacketStats,
    Skip,
    pack,
    parse,
)
from splitcom.gate import GATES
from splitcom.reference import (
    IN_FLIGHT,
    ReceiverCache,
    ReceiverReference,
    SenderCache,
    SenderReference,
    digest,
)
from splitcom.sketch import Sketcher


@dataclass(frozen=True)
class Packet:
    """One step of a stream in bytes."""

    data: bytes
    stats: PacketStats


@dataclass(frozen=True)
class Decoded:
    """One step of a stream as the receiver computes with it: per sample a read-only (T, C) float32 array."""

    sample_ids: list[int]
    tensors: list[Tensor]
    stats: PacketStats

    def expect(self, sample_ids: Sequence[int], tokens: Sequence[int]) -> None:
        """CodecError unless these are the samples, in this order and of these lengths."""
        if self.sample_ids != list(sample_ids) or [len(tensor) for tensor in self.tensors] != list(tokens):
            raise CodecError("packet: its samples are not those of the step, or of another length")


class StreamEncoder:
    """The sending end. Gate, codec and lossless stage are those of `config`; `seed` is the run's."""

    def __init__(self, name: StreamName, config: StreamConfig, channels: int, seed: int) -> None:
        self.name = name
        self.cache = SenderCache()
        self._layout = Layout(name, config.codec, config.lossless, channels)
        self._gate = GATES[config.gate]
        self._codec = CODECS[config.codec]
        self._whole = config.sender_memory == "full"
        self._sketcher = Sketcher(seed, name, channels, config.sketch_dim)
        self._issued: dict[int, int] = {}  # generations given out, per sample
        self._doubted: dict[int, int] = {}  # step at which the doubt arose, per sample
        self._in_flight: dict[int, Sequence[int]] = {}  # sample ids of the undecided steps
        self._last_step = -1
        self.threshold = config.threshold

    @property
    def threshold(self) -> float:
        """Similarity from which on the gate skips, in [-1, 1]."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        check("threshold", value, -1, 1)
        self._threshold = value

    def encode(self, step: int, sample_ids: Sequence[int], tensors: Sequence[Tensor]) -> Packet:
        """The packet of a batch: per sample a (T, C) float32 tensor of its non-padding tokens.

        Steps must increase (DesyncError). CodecError for a tensor of another dtype or shape, values that are not
        finite, or a sample id that is out of range or occurs twice. An error leaves the encoder as it was.
        At most IN_FLIGHT steps stay undecided: beyond that the oldest counts as lost.
        """
        self._check(step, sample_ids, tensors)
        frames: list[Frame] = []
        fresh: dict[int, SenderReference] = {}
        similarities: list[float] = []
        for sample_id, tensor in zip(sample_ids, tensors, strict=True):
            skip = self._skip(sample_id, tensor, similarities)
            if skip is not None:
                frames.append(skip)
                continue
            try:
                body = self._codec.encode(tensor)
            except CodecError as error:
                raise CodecError(f"{self.name}: sample {sample_id}: {error}") from None
            generation = 0
            if self._gate.remembers:
                fresh[sample_id] = reference = self._reference(step, sample_id, body, len(tensor))
                generation = reference.generation
            frames.append(Keyframe(sample_id, generation, len(tensor), body))
        data, stats = pack(self._layout, frames)
        self._commit(step, sample_ids, fresh)
        return Packet(
            data,
            replace(
                stats,
                raw_bytes=sum(tensor.nbytes for tensor in tensors),
                similarities=tuple(similarities),
                forced=sum(sample_id in self._doubted for sample_id in sample_ids),
            ),
        )

    def accept(self, step: int) -> None:
        """The receiver accepted the step: its keyframes are references, and end the doubts that are older."""
        for sample_id in self._in_flight.pop(step, ()):
            if self.cache.proposed(step, sample_id) and self._doubted.get(sample_id, step) < step:
                del self._doubted[sample_id]
        self.cache.accept(step)

    def refuse(self, step: int, keyframes: Sequence[int] = ()) -> None:
        """The receiver rolled the step back: so do we.

        The samples of the step that `keyframes` names, or all of the step when it names none, come as keyframes next.
        """
        self._give_up(step, keyframes)

    def lose(self, step: int) -> None:
        """Nobody knows whether the receiver accepted the step: all its samples come as keyframes next."""
        self._give_up(step, ())

    def reset(self) -> None:
        """The other end restarted: everything is forgotten, and steps may start anew."""
        self.cache.clear()
        self._issued.clear()
        self._doubted.clear()
        self._in_flight.clear()
        self._last_step = -1

    @property
    def memory_bytes(self) -> int:
        """Memory of the references in bytes."""
        return self.cache.memory_bytes

    def _check(self, step: int, sample_ids: Sequence[int], tensors: Sequence[Tensor]) -> None:
        if step <= self._last_step:
            raise DesyncError(f"{self.name}: stale step {step}; valid: above {self._last_step}")
        if len(sample_ids) != len(tensors) or len(sample_ids) > MAX_SAMPLES:
            raise CodecError(
                f"{self.name}: {len(sample_ids)} sample ids for {len(tensors)} tensors; at most {MAX_SAMPLES}"
            )
        if len(set(sample_ids)) < len(sample_ids) or not all(0 <= i <= MAX_SAMPLE_ID for i in sample_ids):
            raise CodecError(f"{self.name}: a sample id occurs twice or is not in 0 to {MAX_SAMPLE_ID}")
        for sample_id, tensor in zip(sample_ids, tensors, strict=True):
            shape = tensor.shape
            if len(shape) != 2 or not 1 <= shape[0] <= MAX_TOKENS or shape[1] != self._layout.channels:
                raise CodecError(
                    f"{self.name}: sample {sample_id} of shape {shape}; "
                    f"valid: (1 to {MAX_TOKENS}, {self._layout.channels})"
                )

    def _skip(self, sample_id: int, tensor: Tensor, similarities: list[float]) -> Skip | None:
        """The skip frame if the gate wants it and there is a reference to stand on; notes the similarity it saw."""
        reference = self.cache.get(sample_id)
        if (
            reference is None
            or reference.tokens != len(tensor)
            or sample_id in self._doubted
            or self.cache.undecided(sample_id)
        ):
            return None
        if self._gate.similarity is not None:
            similarities.append(self._gate.similarity(reference.kept, self._comparable(tensor)))
            if similarities[-1] < self._threshold:
                return None
        check_finite(tensor)
        return Skip(sample_id, reference.generation, reference.digest)

    def _reference(self, step: int, sample_id: int, body: bytes, tokens: int) -> SenderReference:
        """What the receiver will hold once it has decoded the body."""
        decoded = self._codec.decode(body, tokens, self._layout.channels)
        generation = self._issued.get(sample_id, 0) + 1
        kept = self._comparable(decoded) if self._gate.similarity else np.empty(0, np.float32)
        return SenderReference(step, generation, digest(decoded), tokens, kept)

    def _comparable(self, tensor: Tensor) -> Tensor:
        """What the gate compares: the tensor itself or its sketch."""
        return tensor if self._whole else self._sketcher.sketch(tensor)

    def _commit(self, step: int, sample_ids: Sequence[int], fresh: dict[int, SenderReference]) -> None:
        self._last_step = step
        self._issued.update((sample_id, reference.generation) for sample_id, reference in fresh.items())
        self.cache.propose(step, fresh)
        self._in_flight[step] = tuple(sample_ids)
        while len(self._in_flight) > IN_FLIGHT:
            self.lose(min(self._in_flight))

    def _give_up(self, step: int, named: Sequence[int]) -> None:
        """Drop a step's references and put its samples in doubt, save those whose held reference is of a later step."""
        samples = self._in_flight.pop(step, ())
        self.cache.drop(step)
        if not self._gate.remembers:
            return
        for sample_id in set(samples).intersection(named or samples):
            held = self.cache.get(sample_id)
            if held is None or held.step < step:
                self._doubted[sample_id] = max(step, self._doubted.get(sample_id, step))


class StreamDecoder:
    """The receiving end. `config`, `channels` and `seed` are the encoder's; `max_tokens` bounds a sample and
    `max_samples` a packet."""

    def __init__(
        self, name: StreamName, config: StreamConfig, channels: int, seed: int, max_tokens: int, max_samples: int
    ) -> None:
        self.name = name
        self.cache = ReceiverCache()
        self._layout = Layout(name, config.codec, config.lossless, channels, max_samples, max_tokens)
        self._gate = GATES[config.gate]
        self._codec = CODECS[config.codec]
        self._last_step = -1

    def decode(self, step: int, packet: bytes) -> Decoded:
        """The tensors of a packet, in its order; its keyframes are references, tentatively.

        CodecError for bytes that are no packet of this stream. DesyncError for a step that is not above the last one
        decoded (a repeated or overtaken packet), and for skips on references that are not held, in `sample_ids`: these
        samples need keyframes. An error leaves the decoder as it was: the step may be tried again until it is refused.
        """
        if step <= self._last_step:
            raise DesyncError(f"{self.name}: stale step {step}; valid: above {self._last_step}")
        frames, stats = parse(self._layout, packet)
        missing = [frame.sample_id for frame in frames if isinstance(frame, Skip) and self._held(frame) is None]
        if missing:
            raise DesyncError(f"{self.name}: {len(missing)} skips on references not held, first {missing[0]}", missing)
        tensors: list[Tensor] = []
        fresh: dict[int, ReceiverReference] = {}
        for frame in frames:
            tensor = self._tensor(frame)
            tensors.append(tensor)
            if isinstance(frame, Keyframe) and self._gate.remembers:
                names = (step, frame.generation, digest(tensor), frame.tokens)
                fresh[frame.sample_id] = ReceiverReference(*names, tensor)
        self._last_step = step
        self.cache.propose(step, fresh)
        raw_bytes = sum(tensor.nbytes for tensor in tensors)
        return Decoded([frame.sample_id for frame in frames], tensors, replace(stats, raw_bytes=raw_bytes))

    def accept(self, step: int) -> None:
        """The step was used: its keyframes are references. A no-op for a step that is not undecided."""
        self.cache.accept(step)

    def refuse(self, step: int) -> None:
        """The step was not used: its references are dropped.

        Its packet cannot come again, also where it was `decode` that failed: the encoder has given the step up by then.
        """
        self._last_step = max(self._last_step, step)
        self.cache.drop(step)

    def reset(self) -> None:
        """The other end restarted: everything is forgotten, and steps may start anew."""
        self.cache.clear()
        self._last_step = -1

    @property
    def memory_bytes(self) -> int:
        """Memory of the references in bytes."""
        return self.cache.memory_bytes

    def _held(self, skip: Skip) -> ReceiverReference | None:
        """The reference that a skip names, if it is held."""
        held = self.cache.get(skip.sample_id)
        if held is None or (held.generation, held.digest) != (skip.generation, skip.digest):
            return None
        return held

    def _tensor(self, frame: Frame) -> Tensor:
        if isinstance(frame, Keyframe):
            tensor = self._codec.decode(frame.body, frame.tokens, self._layout.channels)
            tensor.setflags(write=False)
            return tensor
        held = self._held(frame)
        if held is None:
            raise DesyncError(f"{self.name}: sample {frame.sample_id} has no reference", [frame.sample_id])
        return held.kept

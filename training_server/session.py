"""One client as the server knows it: its streams, its labels, and the step that waits for its turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import GPT2Config

from broker.messages import ActivationDown, ActivationUp, EpochEnd, GradientDown, GradientUp, Hello, StepRefused
from splitcom.adapter_stream import AdapterStream
from splitcom.adapters import AdapterState
from splitcom.batch import Samples
from splitcom.config import SharedSettings, StreamName
from splitcom.ends import open_ends
from splitcom.errors import CodecError, DesyncError
from splitcom.frame import PacketStats
from splitcom.labels import LabelReceiver
from splitcom.ledger import Ledger
from training_server.trainer import ClientBatch, TailGradient, Target


@dataclass(frozen=True)
class PendingStep:
    """A decoded step that has not been trained on; its references are tentative."""

    step: int
    epoch: int
    sample_ids: tuple[int, ...]
    batch: ClientBatch
    server_step: int


class Session:
    """The server's half of the streams to one client, and where that client stands in the epoch.

    What changes the step that waits (`decode` to `rollback`) is called on the computing thread alone; the event loop
    only looks at it.
    """

    def __init__(
        self, hello: Hello, settings: SharedSettings, base: GPT2Config, initial: AdapterState, ledger: Ledger
    ) -> None:
        """`initial` is the untrained adapter of the client's trained parts."""
        training = settings.training
        self.settings = settings
        self.name, self.boot, self.samples = hello.client, hello.boot, hello.samples
        self.cut = settings.cut
        self.ledger = ledger
        self.ends = open_ends("server", settings, base.hidden_size, base.max_position_embeddings)
        self.labels = LabelReceiver(training.batch_size, base.max_position_embeddings, base.vocab_size)
        self.adapter_names = tuple(initial)
        self.told: dict[str, float] = {}  # the thresholds that the client has been sent
        self.exchange = AdapterStream(initial, settings.adapters)
        self.pending: PendingStep | None = None
        self.gradient: TailGradient | None = None  # of the pending step, once the client's tail has had its turn
        self.out = False  # whether the body's output of the pending step is on its way
        self.epoch_end: EpochEnd | None = None
        self.update: tuple[int, AdapterState] | None = None  # (examples, adapter) that the client sent last
        self.epoch = -1
        self.last_step = -1
        self.awaited_since = time.monotonic()
        self.offline_since: float | None = None

    def begin(self, epoch: int) -> None:
        """The epoch starts; from now on the client is awaited."""
        self.epoch, self.epoch_end = epoch, None
        self.awaited_since = time.monotonic()

    def ready(self) -> bool:
        """Whether the barrier need not wait for this client: its batch is here, or its epoch is over."""
        return self.pending is not None or self.epoch_end is not None

    def fresh(self, message: ActivationUp | GradientUp | EpochEnd) -> bool:
        """Whether a message is new; a repeated step or epoch end is a no-op, counted."""
        if isinstance(message, ActivationUp):
            new = message.step > self.last_step and message.epoch == self.epoch
        elif isinstance(message, GradientUp):
            new = self.out and self.gradient is None and self.pending is not None and message.step == self.pending.step
        else:
            new = message.epoch == self.epoch and self.epoch_end is None
        if not new:
            self.ledger.event("duplicate_message")
        return new

    def steer(self, thresholds: Mapping[StreamName, float]) -> dict[str, float]:
        """Let thresholds hold from the next packets on; returns those that the client has yet to be told."""
        self.ends.set_thresholds(thresholds)
        news: dict[str, float] = {}
        for name, value in thresholds.items():
            if name in self.ends.decoders and self.told.get(name) != value:
                news[name] = value
        self.told |= news
        return news

    def settle(self, applied: int, refused: list[int]) -> None:
        """What the client did with earlier gradients decides the references of `gradient_down`."""
        encoder = self.ends.encoders.get("gradient_down")
        if encoder is None:
            return
        for step in refused:
            encoder.refuse(step)
        if applied >= 0:
            encoder.accept(applied)

    def end(self, message: EpochEnd) -> None:
        """The client is past its shard. Raises CodecError, which ends the run, for an adapter that cannot be used."""
        self.settle(message.applied, message.refused)
        due = self.adapter_names and self.settings.adapters.due(message.epoch, self.settings.training.epochs)
        if due and not (message.adapter and message.examples):
            raise CodecError(f"epoch {message.epoch} ended without an adapter or without examples")
        if due:
            self.update = (message.examples, self.exchange.decode_up(message.adapter))
        self.epoch_end = message

    def decode(self, message: ActivationUp, server_step: int) -> PacketStats | StepRefused:
        """Decode a step, which then is pending; the refusal to send instead when any part of it cannot be used."""
        step, activations = message.step, self.ends.decoders["activation_up"]
        self.last_step = step
        self.settle(message.applied, message.refused)
        if self.pending is not None:  # the client gave its earlier step up: so do we
            self.rollback(self.pending)
            self.ledger.event("superseded_step")
        try:
            decoded = activations.decode(step, message.packet)
            sample_ids = tuple(decoded.sample_ids)
            try:
                if not sample_ids:
                    raise CodecError("packet: no samples")
                batch = ClientBatch(decoded.tensors, self._targets(message, decoded.tensors, sample_ids), self.cut)
            except CodecError:
                activations.refuse(step)
                self.labels.refuse(step)
                raise
        except CodecError as error:
            return self._refusal(step, error)
        self.pending = PendingStep(step, message.epoch, sample_ids, batch, server_step)
        return decoded.stats

    def send_on(self, pending: PendingStep, outputs: Samples) -> tuple[ActivationDown, PacketStats]:
        """U-shape: the body's output of a step, encoded for the client's tail."""
        self.awaited_since = time.monotonic()
        self.out = True
        packet = self.ends.encoders["activation_down"].encode(pending.step, pending.sample_ids, outputs)
        self.ledger.packet("activation_down", self.name, pending.epoch, pending.step, packet.stats)
        return ActivationDown(pending.step, packet.data), packet.stats

    def take_gradient(self, message: GradientUp) -> PacketStats | StepRefused | None:
        """U-shape: decode the gradient behind the body; the refusal to send instead when it cannot be used, and None
        when the client has given the step up meanwhile."""
        step, pending = message.step, self.pending
        if pending is None or pending.step != step:
            return None
        self.ends.encoders["activation_down"].accept(step)
        lengths = [len(tensor) for tensor in pending.batch.activations]
        try:
            decoded = self.ends.decoders["gradient_up"].decode(step, message.packet)
            decoded.expect(pending.sample_ids, lengths)
            if not 1 <= message.target_tokens <= sum(lengths):
                raise CodecError(f"target_tokens: {message.target_tokens}; valid: 1 to {sum(lengths)}")
        except CodecError as error:
            self.rollback(pending)
            return self._refusal(step, error)
        self.gradient = TailGradient(decoded.tensors, message.loss, message.target_tokens)
        return decoded.stats

    def accept(self, pending: PendingStep) -> None:
        """The step was trained on: its references hold from now on."""
        for decoder in self.ends.decoders.values():
            decoder.accept(pending.step)
        self.labels.accept(pending.step)
        self._clear()

    def rollback(self, pending: PendingStep) -> None:
        """The step will not be trained on."""
        for decoder in self.ends.decoders.values():
            decoder.refuse(pending.step)
        if self.out and "activation_down" in self.ends.encoders:
            # A no-op where the client's gradient has said that the output arrived.
            self.ends.encoders["activation_down"].lose(pending.step)
        self.labels.refuse(pending.step)
        self._clear()

    def reply(self, pending: PendingStep, gradients: Samples, loss: float) -> tuple[GradientDown, PacketStats | None]:
        """The gradient of a step, encoded; an empty packet when the head is frozen."""
        self.awaited_since = time.monotonic()
        if not gradients:
            return GradientDown(pending.step, b"", loss), None
        packet = self.ends.encoders["gradient_down"].encode(pending.step, pending.sample_ids, gradients)
        self.ledger.packet("gradient_down", self.name, pending.epoch, pending.step, packet.stats)
        return GradientDown(pending.step, packet.data, loss), packet.stats

    def _clear(self) -> None:
        self.pending = self.gradient = None
        self.out = False

    def _refusal(self, step: int, error: CodecError) -> StepRefused:
        self.ledger.event("refused_step")
        keyframes = list(error.sample_ids) if isinstance(error, DesyncError) else []
        return StepRefused(step, str(error), keyframes)

    def _targets(self, message: ActivationUp, tensors: Samples, sample_ids: tuple[int, ...]) -> list[Target] | None:
        """The labels of a step, which are as long as its tensors; None in the U-shape, where none must come."""
        if self.settings.shape == "u":
            if message.labels:
                raise CodecError("labels: they came with a step of the U-shape, where they stay with the client")
            return None
        self.labels.decode(message.step, message.labels)
        targets = [self.labels.get(sample_id) for sample_id in sample_ids]
        for sample_id, tensor, (start, ids) in zip(sample_ids, tensors, targets, strict=True):
            if len(tensor) != start + len(ids) - 1:
                said = start + len(ids) - 1
                raise CodecError(f"sample {sample_id}: {len(tensor)} tokens, its labels say {said}")
        return targets

"""One agent's share of the method: its parts, streams and labels, as synchronous calls per step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from broker.messages import ActivationDown, ActivationUp, GradientDown, GradientUp
from edge_agent.trainer import HeadTrainer, PartTrainer, TailTrainer
from splitcom.adapter_stream import AdapterStream
from splitcom.adapters import add_adapter, first_adapter
from splitcom.config import ModelConfig, SharedSettings
from splitcom.data.batches import Batch, collate, epoch_batches
from splitcom.data.sample import Example
from splitcom.ends import open_ends
from splitcom.errors import CodecError
from splitcom.labels import LabelSender
from splitcom.ledger import Ledger
from splitcom.partition import load_head, load_tail
from splitcom.weights import Weights


class SplitClient:
    """Everything of an agent that computes; it owns the numbers of steps and what each left undecided.

    A step ends in exactly one of three ways: `finish` (the server accepted it and its gradient came), `refuse` (the
    server rolled it back) or `lose` (its fate is unknown). In the U-shape `turn` stands between attempt and end.
    """

    def __init__(
        self,
        name: str,
        weights: Weights,
        model: ModelConfig,
        settings: SharedSettings,
        examples: Sequence[Example],
        ledger: Ledger,
    ) -> None:
        training, base = settings.training, weights.config
        self.name, self.settings, self.ledger = name, settings, ledger
        self.examples = examples
        self.trained = settings.streams.gradient_down.enabled
        total_steps = -(-len(examples) // training.batch_size) * training.epochs
        head = load_head(weights, model)
        add_adapter(head, settings.lora, training.seed)
        self.head = HeadTrainer(head, training, total_steps, self.trained)
        self.tail: TailTrainer | None = None
        if settings.shape == "u":
            tail = load_tail(weights, model, head)
            add_adapter(tail, settings.lora, training.seed)
            self.tail = TailTrainer(tail, training, total_steps)
        self.ends = open_ends("agent", settings, base.hidden_size, base.max_position_embeddings)
        self.labels = LabelSender()
        first = {name: t for part in self._exchanged() for name, t in first_adapter(part.part, training.seed).items()}
        self.exchange = AdapterStream(first, settings.adapters)
        # CPU seconds of the computing thread, so that neighbours on the machine do not count; `wait` is wall time.
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.skipped = self.sent = 0
        self.applied = -1
        self._refused: list[int] = []
        self._step = self._turned = -1

    def batches(self, epoch: int) -> list[Batch]:
        """The epoch's mini-batches, shuffled by (seed, epoch, name)."""
        training = self.settings.training
        chosen = epoch_batches(self.examples, training.batch_size, training.seed, epoch, self.name)
        return [collate(batch) for batch in chosen]

    def begin(self, thresholds: Mapping[str, float], adapter: bytes) -> None:
        """Start an epoch: thresholds of the gates, and the mean adapter of all clients unless it is empty."""
        self.ends.set_thresholds(thresholds)
        if adapter:
            mean = self.exchange.decode_down(adapter)
            for part in self._exchanged():
                part.load_adapter({name: mean[name] for name in part.adapter()})

    def attempt(self, epoch: int, batch: Batch) -> ActivationUp:
        """Run the head on a batch and encode what the server needs for it, under a new step number."""
        self._step += 1
        with self._timed("forward"):
            samples = self.head.forward(self._step, batch)
        with self._timed("encode"):
            packet = self.ends.encoders["activation_up"].encode(self._step, batch.sample_ids, samples)
            labels = b"" if self.tail else self.labels.encode(self._step, _targets(batch))
        self.ledger.packet("activation_up", "", epoch, self._step, packet.stats)
        self.skipped += packet.stats.kinds["skip"].frames
        self.sent += len(batch.sample_ids)
        return ActivationUp(self._step, epoch, packet.data, labels, self.applied, self.take_refused())

    def turn(self, epoch: int, batch: Batch, message: ActivationDown) -> GradientUp | None:
        """U-shape: run the tail on the body's output and encode its gradient; None for a step that had its turn.

        CodecError for an output that cannot be used: the step is to be lost then.
        """
        step, decoder = message.step, self.ends.decoders["activation_down"]
        if self.tail is None or step <= self._turned:
            return None
        with self._timed("decode"):
            try:
                decoded = decoder.decode(step, message.packet)
                decoded.expect(batch.sample_ids, [int(length) - 1 for length in batch.lengths])
            except CodecError:
                decoder.refuse(step)
                raise
        with self._timed("tail"):
            loss, target_tokens, gradients = self.tail.loss(batch, decoded.tensors)
        decoder.accept(step)
        self._turned = step
        with self._timed("encode"):
            packet = self.ends.encoders["gradient_up"].encode(step, batch.sample_ids, gradients)
        self.ledger.packet("gradient_up", "", epoch, step, packet.stats)
        return GradientUp(step, packet.data, loss, target_tokens)

    def finish(self, batch: Batch, reply: GradientDown) -> None:
        """The server accepted the step; apply its gradients. CodecError leaves the head's gradient refused."""
        step = reply.step
        for encoder in self.ends.encoders.values():
            encoder.accept(step)
        self.labels.accept(step)
        if self.tail is not None:
            with self._timed("tail"):
                self.tail.step()
        if not self.trained:
            return
        decoder = self.ends.decoders["gradient_down"]
        with self._timed("decode"):
            try:
                decoded = decoder.decode(step, reply.packet)
                decoded.expect(batch.sample_ids, [int(length) - 1 for length in batch.lengths])
            except CodecError:
                decoder.refuse(step)
                self._refuse_gradient(step)
                raise
        with self._timed("backward"):
            self.head.backward(step, decoded.tensors)
        decoder.accept(step)
        self.applied = step

    def refuse(self, step: int, keyframes: Sequence[int]) -> None:
        """The server rolled the step back: so do its streams. `keyframes` are of the stream that was sent last."""
        self._forget(step)
        turned = self.tail is not None and step == self._turned
        self.ends.encoders["activation_up"].refuse(step, () if turned else keyframes)
        if turned:
            self.ends.encoders["gradient_up"].refuse(step, keyframes)
        self.labels.refuse(step)
        self.ledger.event("refused_step")

    def lose(self, step: int) -> None:
        """Nobody knows whether the server took the step: its samples come as keyframes next time."""
        self._forget(step)
        for encoder in self.ends.encoders.values():
            encoder.lose(step)
        self.labels.lose(step)
        self._refused.append(step)
        self.ledger.event("lost_step")

    def adapter(self, epoch: int) -> bytes:
        """The client-side adapter for the federated mean; empty when nothing is due or nothing here is trained."""
        if not self._exchanged() or not self.settings.adapters.due(epoch, self.settings.training.epochs):
            return b""
        state = {name: tensor for part in self._exchanged() for name, tensor in part.adapter().items()}
        return self.exchange.encode_up(state)

    def take_refused(self) -> list[int]:
        """The steps whose gradients were refused since the last message."""
        refused, self._refused = self._refused, []
        return refused

    def _exchanged(self) -> list[PartTrainer]:
        """The parts that are trained here, and whose adapters are therefore averaged."""
        return [*([self.head] if self.trained else []), *([self.tail] if self.tail else [])]

    def _refuse_gradient(self, step: int) -> None:
        """Drop a step's gradient; the next message tells the server, and the head is not trained on it."""
        self.head.forget(step)
        self._refused.append(step)
        self.ledger.event("refused_gradient")

    def _forget(self, step: int) -> None:
        self.head.forget(step)
        if self.tail is not None:
            self.tail.forget()

    @contextmanager
    def _timed(self, activity: str) -> Iterator[None]:
        clock = time.thread_time()
        try:
            yield
        finally:
            self.seconds[activity] += time.thread_time() - clock


def _targets(batch: Batch) -> list[tuple[int, int, Sequence[int]]]:
    """Per sample: id, position of the first target, target ids."""
    targets = []
    for row, sample_id, length in zip(batch.labels, batch.sample_ids, batch.lengths, strict=True):
        start = int((row >= 0).argmax())
        targets.append((sample_id, start, row[start : int(length)]))
    return targets

"""Everything of a run that computes or is written to disk on the server: parts, trainer, evaluation, run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from broker.channel import Channel
from broker.messages import (
    ActivationUp,
    Begin,
    GradientDown,
    GradientUp,
    Hello,
    Message,
    StepRefused,
    Thresholds,
)
from splitcom.adapters import AdapterState, add_adapter, block_of, export, fedavg, first_adapter
from splitcom.data.corpus import load
from splitcom.data.sample import tokenize
from splitcom.errors import ConfigError
from splitcom.evaluate import SplitModel
from splitcom.ledger import Ledger
from splitcom.partition import boundaries, load_body, load_head, load_tail
from splitcom.tokenizer import load_tokenizer
from splitcom.weights import Weights, base_digest
from training_server.config import ServerConfig
from training_server.control import Control
from training_server.evaluation import Evaluation
from training_server.journal import Journal
from training_server.session import PendingStep, Session
from training_server.trainer import BodyTrainer, Forward, StepResult

Member = tuple[Session, PendingStep]
Answer = tuple[Session, list[Message]]


@dataclass(frozen=True)
class OnWay:
    """U-shape: a step whose members have the body's output; without a forward pass when it has none left."""

    members: list[Member]
    forward: Forward | None


class Run:
    """One run's model and its records; every method is synchronous and is called from one thread at a time."""

    def __init__(self, config: ServerConfig, directory: Path) -> None:
        """Load the model and the evaluation texts, open the run directory's files.

        Raises PartitionError, DataError or ConfigError for what cannot be used, before anything is written.
        """
        self.config, self.directory = config, directory
        self.weights = Weights(config.model.base)
        boundaries(self.weights.config, config.model)
        # The server holds every block that some client leaves to it.
        cut = replace(config.model, cut=min([config.model.cut, *config.model.unequal().values()]))
        head = load_head(self.weights, cut)
        self.model = SplitModel(head, load_body(self.weights, cut), load_tail(self.weights, cut, head))
        self.first: AdapterState = {}
        for part in self.model.parts:
            add_adapter(part, config.lora, config.training.seed)
            self.first |= first_adapter(part, config.training.seed)
        self.base_digest = base_digest(self.weights)
        tail = None if config.model.shape == "u" else self.model.tail
        self.trainer = BodyTrainer(self.model.body, tail, config.training, config.model.dtype)
        self.control = Control(config.control, config.streams.of(config.model.shape), config.training.seed)
        positions = self.weights.config.max_position_embeddings
        tokenizer = load_tokenizer(config.model.base)
        # The training texts, and with them the labels, are the clients' own.
        corpus = load(config.data, "evaluation")
        validation, _ = tokenize(corpus.validation, tokenizer, positions)
        self.evaluation = Evaluation(self.model, tokenizer, validation, corpus.test, config.evaluation, positions)
        if config.evaluation.bleu and corpus.test and not self.evaluation.test:
            raise ConfigError(
                f"evaluation.max_new_tokens: {config.evaluation.max_new_tokens} leaves no room for an input in "
                f"{positions} positions; valid: at most {positions} less the tokens of an input"
            )
        directory.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger("server", directory / "ledger-server.jsonl")
        self.journal = Journal(directory / "metrics.jsonl")
        self.perplexity_before = self.perplexity = float("nan")
        self.steps = self.epoch = 0
        self.loss = float("nan")

    def session(self, hello: Hello) -> Session:
        """The server's half of a new client."""
        settings = self.config.shared(hello.client)
        blocks, trained = self.weights.config.num_hidden_layers, settings.streams.gradient_down.enabled
        initial = {
            name: tensor
            for name, tensor in self.first.items()
            if (trained and block_of(name) < settings.cut)
            or (settings.shape == "u" and block_of(name) >= blocks - settings.tail)
        }
        return Session(hello, settings, self.weights.config, initial, self.ledger)

    def begin(self, samples: Sequence[int]) -> None:
        """Measure the untrained model and fix the length of the schedule from the clients' numbers of samples."""
        training = self.config.training
        per_epoch = [-(-count // training.batch_size) for count in samples]
        longest = max(per_epoch) if training.step_policy == "barrier" else sum(per_epoch)
        self.trainer.plan(longest * training.epochs)
        self.control.plan(longest, training.epochs)
        self.perplexity_before = self.evaluate(-1)
        self._training_began = time.perf_counter()

    def decode(self, session: Session, message: ActivationUp) -> StepRefused | None:
        """Decode a client's step; the refusal to send when any part of it cannot be used."""
        with self.journal.cpu("decode"):
            decoded = session.decode(message, self.steps)
        if isinstance(decoded, StepRefused):
            return decoded
        self.control.observe("activation_up", decoded)
        return None

    def take_gradient(self, session: Session, message: GradientUp) -> StepRefused | None:
        """U-shape: decode a client's gradient behind the body; the refusal to send when it cannot be used."""
        with self.journal.cpu("decode"):
            taken = session.take_gradient(message)
        if isinstance(taken, StepRefused):
            return taken
        self.control.observe("gradient_up", taken)
        return None

    def step(self, members: Sequence[Member]) -> list[Answer]:
        """One optimiser step on the batches of those members that have not given their step up; what to tell each."""
        members = [(session, pending) for session, pending in members if session.pending is pending]
        if not members:
            return []
        with self.journal.wall("step"):
            result = self.trainer.step([pending.batch for _, pending in members], self._head_trained)
        return self._stepped(members, result)

    def forward(self, members: Sequence[Member]) -> tuple[OnWay, list[Answer]]:
        """U-shape: the body's forward pass for those members that have not given their step up; what to tell each."""
        members = [(session, pending) for session, pending in members if session.pending is pending]
        if not members:
            return OnWay([], None), []
        with self.journal.wall("step"):
            forward = self.trainer.forward([pending.batch for _, pending in members], self._head_trained)
            outputs = self.trainer.outputs_of(forward)
        answers: list[Answer] = []
        with self.journal.cpu("encode"):
            for (session, pending), output in zip(members, outputs, strict=True):
                message, stats = session.send_on(pending, output)
                self.control.observe("activation_down", stats)
                answers.append((session, [message]))
        return OnWay(members, forward), answers

    def backward(self, on_way: OnWay) -> list[Answer]:
        """U-shape: one optimiser step on those members whose gradient has come; what to tell each of these."""
        members, forward = on_way.members, on_way.forward
        gradients = [session.gradient if session.pending is pending else None for session, pending in members]
        if forward is None or not any(gradients):
            return []
        with self.journal.wall("step"):
            result = self.trainer.backward(forward, gradients, self._head_trained)
        there = [i for i, gradient in enumerate(gradients) if gradient is not None]
        kept = replace(result, gradients=[result.gradients[i] for i in there])
        return self._stepped([members[i] for i in there], kept)

    def average(self, sessions: Sequence[Session]) -> AdapterState | None:
        """Load the example-weighted mean of the clients' adapters, block by block over the holders of each; None when
        no client has sent one.

        A block that some clients leave to the server has the server among its holders, with the examples of these.
        """
        updates = [(session.cut, *session.update) for session in sessions if session.update is not None]
        if not updates:
            return None
        own: list[tuple[int, AdapterState]] = []
        highest = max(cut for cut, _, _ in updates)
        for name, tensor in self.trainer.adapter().items():
            examples = sum(count for cut, count, _ in updates if cut <= block_of(name))
            if block_of(name) < highest and examples:
                own.append((examples, {name: tensor}))
        mean = fedavg([*((count, state) for _, count, state in updates), *own])
        self.model.load_adapter(mean)
        return mean

    def begin_epoch(self, session: Session, epoch: int, mean: AdapterState | None) -> Begin:
        """What sends a client into an epoch: the thresholds, and its share of the mean adapter if there is one."""
        session.begin(epoch)
        session.steer(self.control.thresholds)
        share = {name: mean[name] for name in session.adapter_names} if mean is not None else {}
        return Begin(epoch, {**session.told}, session.exchange.encode_down(share) if share else b"")

    def evaluate(self, epoch: int) -> float:
        """Validation perplexity of the model as it is now; the controller hears of it."""
        with self.journal.wall("evaluate"):
            self.perplexity = self.evaluation.perplexity()
        self.journal.row("evaluation", epoch=epoch, perplexity=self.perplexity, loss=self.loss)
        self._controlled(self.control.evaluated(self.perplexity), epoch)
        return self.perplexity

    def finish(self, channel: Channel) -> dict[str, Any]:
        """Export the adapter, generate for BLEU, write the outputs; the server's summary."""
        trained = time.perf_counter() - self._training_began - self.journal.seconds["evaluate"]
        adapter = self.export(self.directory / "adapter")
        self.control.save(self.directory)
        score, outputs = self.evaluation.bleu()
        (self.directory / "outputs.json").write_text(json.dumps(outputs, indent=1, ensure_ascii=False) + "\n")
        self.journal.row("final", perplexity=self.perplexity, bleu=score)
        return {
            "perplexity_before": self.perplexity_before,
            "perplexity": self.perplexity,
            "bleu": score,
            "steps": self.steps,
            "train_s": round(trained, 3),
            "steps_per_s": round(self.steps / trained, 4) if trained > 0 else 0.0,
            "seconds": {name: round(value, 3) for name, value in sorted(self.journal.seconds.items())},
            "adapter": str(adapter),
            **self.records(channel),
        }

    def records(self, channel: Channel) -> dict[str, Any]:
        """The ledger's totals and the channel's counts, whatever state the run is in."""
        return {
            "ledger": self.ledger.totals(),
            "sent": {name: asdict(count) for name, count in channel.sent.items()},
            "received": {name: asdict(count) for name, count in channel.received.items()},
        }

    def export(self, directory: Path) -> Path:
        """Write the whole model's adapter, the clients' mean and the server's own, in PEFT's layout."""
        export(self.model.adapter(), self.config.lora, self.config.model.base, directory)
        return directory

    def progress(self, channel: Channel) -> dict[str, Any]:
        """The event of a finished step."""
        return {
            "event": "step",
            "epoch": self.epoch,
            "step": self.steps,
            "total_steps": self.trainer.optimizer.total_steps,
            "loss": round(self.loss, 4),
            "perplexity": self.perplexity,
            "uplink_bytes": sum(c.body_bytes + c.envelope_bytes for c in channel.received.values()),
            "downlink_bytes": sum(c.body_bytes + c.envelope_bytes for c in channel.sent.values()),
        }

    def close(self) -> None:
        """Close the run directory's files; harmless when called again."""
        self.ledger.close()
        self.journal.close()

    @property
    def _head_trained(self) -> bool:
        return self.config.streams.gradient_down.enabled

    def _stepped(self, members: Sequence[Member], result: StepResult) -> list[Answer]:
        """Book and accept a step, encode the gradients for the members, and let the controller act.

        New thresholds go ahead of a member's gradient, so that they hold from its next step on.
        """
        self.loss, self.epoch = result.loss, members[0][1].epoch
        self.journal.row(
            "step",
            epoch=self.epoch,
            step=self.steps,
            loss=result.loss,
            norm=round(result.norm, 6),
            clients=[session.name for session, _ in members],
            target_tokens=result.target_tokens,
            staleness=[self.steps - pending.server_step for _, pending in members],
        )
        self.steps += 1
        replies: list[tuple[Session, GradientDown]] = []
        with self.journal.cpu("encode"):
            for (session, pending), gradients in zip(members, result.gradients, strict=True):
                session.accept(pending)
                reply, stats = session.reply(pending, gradients, result.loss)
                self.control.observe("gradient_down", stats)
                replies.append((session, reply))
        self._controlled(self.control.stepped(self.steps, result.loss), self.epoch)
        answers: list[Answer] = []
        for session, reply in replies:
            news = session.steer(self.control.thresholds)
            answers.append((session, [Thresholds(news), reply] if news else [reply]))
        return answers

    def _controlled(self, row: dict[str, Any], epoch: int) -> None:
        if row:
            self.journal.row("control", epoch=epoch, step=self.steps, **row)

"""The life of an agent: hello, epochs of steps, and the end that the server announces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict
from typing import Any, TypeVar

from broker.channel import Channel, Malformed
from broker.errors import BrokerError, DeadlineError, SettingsError
from broker.messages import (
    ActivationDown,
    Begin,
    End,
    EpochEnd,
    Failure,
    GradientDown,
    Hello,
    Message,
    State,
    StepRefused,
    Thresholds,
    Welcome,
)
from broker.program import peak_bytes
from broker.settings import build
from broker.topics import PROTOCOL, SERVER
from edge_agent.client import SplitClient
from edge_agent.config import AgentConfig
from splitcom import __version__
from splitcom.config import ModelConfig, SharedSettings, TrainingConfig
from splitcom.data.batches import Batch
from splitcom.data.sample import Example
from splitcom.errors import CodecError, ConfigError, SplitComError
from splitcom.ledger import Ledger
from splitcom.weights import Weights, base_digest

T = TypeVar("T")
Emit = Callable[[dict[str, Any]], None]
OFFLINE_GRACE_S = 30.0


class RunEnded(Exception):
    """The server announced the end of the run."""

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


class Agent:
    """One client of a run, over any channel; all computing happens on `compute`, one call at a time."""

    def __init__(
        self,
        config: AgentConfig,
        channel: Channel,
        examples: list[Example],
        compute: Executor,
        ledger: Ledger,
        emit: Emit,
    ) -> None:
        self.config, self.channel, self.ledger = config, channel, ledger
        self.examples, self.emit = examples, emit
        self.training = TrainingConfig()
        self._compute = compute
        self._client: SplitClient | None = None

    async def run(self) -> End:
        """Take part in the run until the server ends it; returns the server's word on how it ended.

        Raises DeadlineError when the server falls silent, and SplitComError for whatever makes this agent useless
        to the run, after telling the server.
        """
        try:
            await self._join()
            while True:
                await self._epoch(await self._receive(Begin, self.training.round_deadline_s, "the next epoch"))
        except RunEnded as ended:
            return ended.end
        except SplitComError as error:
            await self._farewell(str(error))
            raise

    async def _join(self) -> None:
        weights = await self._run(Weights, self.config.model.base)
        base = await self._run(base_digest, weights)
        hello = Hello(
            self.config.name,
            self.channel.boot,
            PROTOCOL,
            len(self.examples),
            base,
            f"splitcom {__version__}",
        )
        welcome = await self._welcome(hello)
        try:
            settings = build(SharedSettings, welcome.settings, "the server's ")
        except SettingsError as error:
            raise ConfigError(str(error)) from None
        if self.config.keep_labels and settings.shape != "u":
            raise ConfigError(
                f"model.shape: the server asks for labels ({settings.shape}), and this agent keeps them "
                "(keep_labels = true); valid: u"
            )
        self.training = settings.training
        local, cuts = self.config.model, (settings.shape, settings.cut, settings.tail)
        model = ModelConfig(local.base, local.attention, local.device, local.dtype, *cuts)
        self._client = await self._run(
            SplitClient, self.config.name, weights, model, settings, self.examples, self.ledger
        )
        self.emit({"event": "joined", "samples": len(self.examples)})

    async def _welcome(self, hello: Hello) -> Welcome:
        """Say hello whenever a server comes online: an agent may well be there before its server."""
        where = f"a server in run {self.config.run!r} at {self.config.broker}"
        while True:
            message = await self._receive((Welcome, State), self.training.round_deadline_s, where)
            if isinstance(message, Welcome):
                return message
            if message.status == "online":
                await self._send(hello)

    async def _epoch(self, begin: Begin) -> None:
        client = self._joined()
        await self._run(client.begin, begin.thresholds, begin.adapter)
        examples = steps = 0
        for batch in await self._run(client.batches, begin.epoch):
            await self._step(begin.epoch, batch)
            examples += len(batch.sample_ids)
            steps += 1
        self.ledger.remember(begin.epoch, client.ends.memory())
        adapter = await self._run(client.adapter, begin.epoch)
        end = EpochEnd(begin.epoch, examples, steps, adapter, client.applied, client.take_refused())
        await self._send(end, {"adapter": len(adapter)})

    async def _step(self, epoch: int, batch: Batch) -> None:
        """One batch there and back; a refused or lost step is tried again under a new number, with keyframes."""
        client = self._joined()
        for _ in range(self.training.max_refusals + 1):
            message = await self._run(client.attempt, epoch, batch)
            parts = {"packet": len(message.packet), "label": len(message.labels)}
            await self._send(message, parts, rest="framing")
            reason = await self._fate(client, message.step, epoch, batch)
            if not reason:
                self.emit({"event": "step", "epoch": epoch, "step": message.step, **self.progress()})
                return
        raise SplitComError(f"step {message.step} of epoch {epoch} was given up: {reason}")

    async def _fate(self, client: SplitClient, step: int, epoch: int, batch: Batch) -> str:
        """Wait for the fate of a step, taking its turn in the U-shape; "" when it was accepted, else why not."""
        while True:
            try:
                reply = await self._reply(client, step)
            except DeadlineError as error:
                client.lose(step)
                return str(error)
            if isinstance(reply, Malformed):
                # Nobody can say which message this was; if it was the reply, waiting for another is vain.
                client.lose(step)
                return f"malformed reply: {reply.reason}"
            if reply.step != step:
                self.ledger.event("stale_reply")
            elif isinstance(reply, StepRefused):
                client.refuse(step, reply.keyframes)
                return reply.reason
            elif isinstance(reply, ActivationDown):
                reason = await self._turn(client, epoch, batch, reply)
                if reason:
                    return reason
            else:
                try:
                    await self._run(client.finish, batch, reply)
                except CodecError as error:
                    self.emit({"event": "warning", "text": f"gradient of step {step} refused: {error}"})
                return ""

    async def _turn(self, client: SplitClient, epoch: int, batch: Batch, message: ActivationDown) -> str:
        """U-shape: from the body's output to the gradient behind it; "" unless the output cannot be used."""
        try:
            answer = await self._run(client.turn, epoch, batch, message)
        except CodecError as error:
            client.lose(message.step)
            return str(error)
        if answer is None:
            self.ledger.event("stale_reply")
        else:
            await self._send(answer, {"packet": len(answer.packet)}, rest="framing")
        return ""

    async def _reply(self, client: SplitClient, step: int) -> Any:
        clock = time.perf_counter()
        kinds = (GradientDown, StepRefused, ActivationDown, Malformed)
        try:
            return await self._receive(kinds, self.training.reply_timeout_s, f"the reply to step {step}")
        finally:
            client.seconds["wait"] += time.perf_counter() - clock

    async def _receive(self, kinds: type[T] | tuple[type[Any], ...], seconds: float, what: str) -> Any:
        """The next message of the given kinds; End raises RunEnded, others are counted and left.

        DeadlineError when nothing has come for so long, not even a part of a message, or when the server has been
        offline for the grace period.
        """
        deadline, offline = time.monotonic() + seconds, False
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    _, message = await self.channel.receive()
            except TimeoutError:
                heard = self.channel.last_heard.get(SERVER, 0.0)
                if not offline and heard + seconds > time.monotonic():
                    deadline = heard + seconds  # a long message on a slow link
                    continue
                why = f"since it went offline {OFFLINE_GRACE_S:g} s ago" if offline else f"within {seconds:g} s"
                raise DeadlineError(f"server: {what} did not come {why}") from None
            if isinstance(message, End):
                raise RunEnded(message)
            if isinstance(message, kinds):
                return message
            if isinstance(message, State):
                offline = message.status == "offline" and seconds > OFFLINE_GRACE_S
                deadline = time.monotonic() + (OFFLINE_GRACE_S if offline else seconds)
                self.emit({"event": "warning", "text": f"the server is {message.status}"})
            elif isinstance(message, Thresholds) and self._client is not None:
                await self._run(self._client.ends.set_thresholds, message.thresholds)
            else:
                self.ledger.event("unexpected_message")

    async def _send(self, message: Message, parts: dict[str, int] | None = None, rest: str = "control") -> None:
        body_bytes = await self.channel.send("server", message)
        self.ledger.message(body_bytes, parts or {}, rest)

    async def _farewell(self, reason: str) -> None:
        """Tell the server why this agent leaves, if that is still possible."""
        try:
            async with asyncio.timeout(5):
                await self._send(Failure(reason))
        except (BrokerError, TimeoutError):
            self.emit({"event": "warning", "text": "the server could not be told"})

    def progress(self) -> dict[str, Any]:
        """Bytes over the wire so far and the share of samples that were skipped."""
        client = self._joined()
        return {
            "uplink_bytes": sum(count.body_bytes + count.envelope_bytes for count in self.channel.sent.values()),
            "downlink_bytes": sum(c.body_bytes + c.envelope_bytes for c in self.channel.received.values()),
            "skip_ratio": round(client.skipped / max(1, client.sent), 4),
        }

    def records(self) -> dict[str, Any]:
        """The ledger's totals, the channel's counts and the seconds per activity, whatever state the agent is in."""
        client = self._client
        return {
            "ledger": self.ledger.totals(),
            "sent": {name: asdict(count) for name, count in self.channel.sent.items()},
            "received": {name: asdict(count) for name, count in self.channel.received.items()},
            "seconds": {name: round(value, 3) for name, value in sorted(client.seconds.items())} if client else {},
            "peak_bytes": peak_bytes(),
        }

    def _joined(self) -> SplitClient:
        assert self._client is not None, "the agent has not joined a run"
        return self._client

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._compute, function, *arguments)

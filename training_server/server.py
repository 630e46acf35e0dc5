"""The life of a run on the server: clients gather, epochs of steps pass, adapters are averaged, the run ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from broker.channel import Channel, Malformed
from broker.errors import BrokerError, DeadlineError, VersionError
from broker.messages import (
    ActivationDown,
    ActivationUp,
    End,
    EpochEnd,
    Failure,
    GradientDown,
    GradientUp,
    Hello,
    Message,
    State,
    Welcome,
)
from broker.settings import as_table
from broker.topics import PROTOCOL
from splitcom.adapters import AdapterState
from splitcom.errors import CodecError, SplitComError
from training_server.config import ServerConfig
from training_server.policies import STEP_POLICIES, StepPolicy
from training_server.run import Answer, Run
from training_server.session import Session

T = TypeVar("T")
Emit = Callable[[dict[str, Any]], None]
OFFLINE_GRACE_S = 30.0


class Server:
    """One run over any channel: one task receives, the step policy trains, torch runs on `compute`."""

    def __init__(self, config: ServerConfig, channel: Channel, run: Run, compute: Executor, emit: Emit) -> None:
        self.config, self.channel, self.state, self.emit = config, channel, run, emit
        self.sessions: dict[str, Session] = {}
        self._compute = compute
        self._changed = asyncio.Event()
        self._begun = False
        self._fault: Exception | None = None

    async def run(self) -> None:
        """Train to the end. Whatever ends it early is raised after the agents have been told."""
        receiver = asyncio.create_task(self._receive(), name="receive")
        receiver.add_done_callback(lambda _: self._changed.set())
        try:
            await self._gather()
            await self._train(STEP_POLICIES[self.config.training.step_policy](self))
            await self._dismiss(End(True, "finished"))
        except BaseException as error:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await self._dismiss(End(False, str(error) or "the server was stopped"))
            raise
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)

    async def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a synchronous call on the compute thread."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, function, *arguments)

    async def send(
        self, client: str, message: Message, parts: dict[str, int] | None = None, rest: str = "control"
    ) -> None:
        """Send to one client and book the bytes by kind."""
        body_bytes = await self.channel.send(client, message)
        self.state.ledger.message(body_bytes, parts or {}, rest)

    async def until(self, condition: Callable[[], bool], awaited: Callable[[], list[Session]], what: str) -> None:
        """Wait for a condition that incoming messages make true.

        Raises DeadlineError naming the first awaited client that made no progress for the deadline, or that has been
        offline for longer than the grace period.
        """
        while not condition():
            if self._fault is not None:
                raise self._fault
            self._changed.clear()
            wait = self._time_left(awaited(), what)
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue
        if self._fault is not None:
            raise self._fault

    def _time_left(self, awaited: list[Session], what: str) -> float:
        deadline, now = self.config.training.progress_deadline_s, time.monotonic()
        left = deadline
        for session in awaited:
            heard = max(session.awaited_since, self.channel.last_heard.get(session.name, 0.0))
            rest = heard + deadline - now
            reason = f"made no progress for {deadline:g} s"
            if session.offline_since is not None and session.offline_since + OFFLINE_GRACE_S - now < rest:
                rest = session.offline_since + OFFLINE_GRACE_S - now
                reason = f"has been offline for {OFFLINE_GRACE_S:g} s"
            if rest <= 0:
                raise DeadlineError(
                    f"client {session.name} {reason} (epoch {session.epoch}, step {session.last_step}, awaiting {what})"
                )
            left = min(left, rest)
        return left

    async def _gather(self) -> None:
        """Wait until the expected number of clients has said hello."""
        deadline = time.monotonic() + self.config.training.round_deadline_s
        while len(self.sessions) < self.config.clients:
            if self._fault is not None:
                raise self._fault
            self._changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                here = ", ".join(sorted(self.sessions)) or "none"
                raise DeadlineError(
                    f"{len(self.sessions)} of {self.config.clients} clients said hello within "
                    f"{self.config.training.round_deadline_s:g} s: {here}"
                ) from None
        self._begun = True
        self.sessions = dict(sorted(self.sessions.items()))
        strangers = sorted(set(self.config.model.unequal()) - set(self.sessions))
        if strangers:
            raise SplitComError(f"model.cuts: {strangers[0]} is not in the run; valid: {', '.join(self.sessions)}")

    async def _train(self, policy: StepPolicy) -> None:
        sessions = list(self.sessions.values())
        await self.compute(self.state.begin, [session.samples for session in sessions])
        self.emit({"event": "begin", "clients": list(self.sessions), "perplexity": self.state.perplexity_before})
        await policy.run(sessions)

    async def begin_epoch(self, session: Session, epoch: int, mean: AdapterState | None) -> None:
        """Send a client into an epoch, with the mean adapter of the round before it if there is one."""
        begin = await self.compute(self.state.begin_epoch, session, epoch, mean)
        await self.send(session.name, begin, {"adapter": len(begin.adapter)})

    async def end_epoch(self, epoch: int) -> AdapterState | None:
        """Average the adapters, evaluate, report; returns the mean adapter if one is due and somebody sent one."""
        mean = await self.average(epoch)
        last = epoch + 1 == self.config.training.epochs
        if last or (epoch + 1) % self.config.evaluation.every == 0:
            value = await self.compute(self.state.evaluate, epoch)
            self.emit({"event": "epoch", "epoch": epoch, "perplexity": value})
            for session in self.sessions.values():
                # Nobody was listened to meanwhile: what clients have sent since then is no silence.
                session.awaited_since = max(session.awaited_since, time.monotonic())
        return mean

    async def average(self, epoch: int) -> AdapterState | None:
        """The mean of the last adapter of every client that has sent one; None when none is due after this epoch."""
        if not self.config.adapters.due(epoch, self.config.training.epochs):
            return None
        return await self.compute(self.state.average, list(self.sessions.values()))

    async def answer(self, answers: list[Answer]) -> None:
        """Send every client its messages in order, all clients at once."""
        await asyncio.gather(*(self._tell(session, messages) for session, messages in answers))

    def progressed(self) -> None:
        """Emit how far the run is."""
        self.emit(self.state.progress(self.channel))

    async def _tell(self, session: Session, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, ActivationDown | GradientDown):
                await self.send(session.name, message, {"packet": len(message.packet)}, rest="framing")
            else:
                await self.send(session.name, message)

    async def _receive(self) -> None:
        """Read messages for ever; an error here ends the run at the next wait."""
        try:
            while True:
                client, message = await self.channel.receive()
                await self._dispatch(client, message)
                self._changed.set()
        except Exception as error:
            # Whatever it is: the policy raises it at its next wait, and nobody else would.
            self._fault = error

    async def _dispatch(self, client: str, message: Message | Malformed) -> None:
        session = self.sessions.get(client)
        if isinstance(message, Malformed):
            self.state.ledger.event("malformed_message")
            self.emit({"event": "warning", "text": f"{client}: {message.reason}"})
            if message.version_mismatch and not self._begun:
                raise VersionError(f"client {client}: {message.reason}")
        elif isinstance(message, Hello):
            await self._hello(client, message)
        elif session is None:
            if not isinstance(message, State):
                self.state.ledger.event("stranger")
        elif isinstance(message, State):
            session.offline_since = time.monotonic() if message.status == "offline" else None
        elif isinstance(message, Failure):
            raise SplitComError(f"client {client} failed: {message.reason}")
        elif isinstance(message, ActivationUp | GradientUp) and session.fresh(message):
            await self._offered(session, message)
        elif isinstance(message, EpochEnd) and session.fresh(message):
            try:
                await self.compute(session.end, message)
            except CodecError as error:
                raise SplitComError(f"client {client}: {error}") from None

    async def _hello(self, client: str, hello: Hello) -> None:
        known = self.sessions.get(client)
        problem = self._objection(client, hello, known)
        if problem:
            self.emit({"event": "warning", "text": problem})
            await self.send(client, End(False, problem))
            return
        if known is None:
            self.sessions[client] = await self.compute(self.state.session, hello)
            self.emit({"event": "hello", "client": client, "samples": hello.samples, "of": self.config.clients})
        await self.send(client, Welcome(as_table(self.config.shared(client)), self.channel.boot))

    def _objection(self, client: str, hello: Hello, known: Session | None) -> str:
        """Why a client cannot take part; empty when it can."""
        if hello.protocol != PROTOCOL:
            return f"client {client} speaks protocol {hello.protocol}; this server speaks {PROTOCOL}"
        if hello.base != self.state.base_digest:
            return f"client {client} has another base ({hello.base}) than the server ({self.state.base_digest})"
        if known is None and len(self.sessions) >= self.config.clients:
            return f"client {client}: the run has its {self.config.clients} clients already"
        if known is not None and known.boot != hello.boot:
            return f"client {client}: this name is taken in run {self.config.run!r}"
        return ""

    async def _offered(self, session: Session, message: ActivationUp | GradientUp) -> None:
        """Take a step's activations or its gradient in; a refusal is sent at once."""
        take = self.state.decode if isinstance(message, ActivationUp) else self.state.take_gradient
        refusal = await self.compute(take, session, message)
        if refusal is not None:
            self.emit({"event": "warning", "text": f"{session.name}: step {refusal.step} refused: {refusal.reason}"})
            await self.send(session.name, refusal)

    async def _dismiss(self, end: End) -> None:
        for client in self.sessions:
            try:
                await self.send(client, end)
            except BrokerError as error:
                self.emit({"event": "warning", "text": f"{client} could not be told of the end: {error}"})

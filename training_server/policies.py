"""When the server steps: at a barrier of all clients that still have batches, or at every batch as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from broker.channel import Channel
from broker.messages import GradientDown, Message
from splitcom.adapters import AdapterState
from training_server.config import ServerConfig
from training_server.run import Member, Run
from training_server.session import PendingStep, Session
from training_server.trainer import Forward

T = TypeVar("T")


class Conductor(Protocol):
    """What a step policy needs of the server."""

    config: ServerConfig
    channel: Channel
    state: Run
    emit: Callable[[dict[str, Any]], None]

    async def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a synchronous call on the compute thread."""

    async def send(self, client: str, message: Message, parts: dict[str, int] | None = None, rest: str = ...) -> None:
        """Send to one client and book the bytes by kind."""

    async def until(self, condition: Callable[[], bool], awaited: Callable[[], list[Session]], what: str) -> None:
        """Wait for a condition that incoming messages make true."""

    async def begin_epoch(self, session: Session, epoch: int, mean: AdapterState | None) -> None:
        """Send a client into an epoch."""

    async def average(self, epoch: int) -> AdapterState | None:
        """The mean of the clients' last adapters if it is due after this epoch."""

    async def end_epoch(self, epoch: int) -> AdapterState | None:
        """Average and evaluate; the mean adapter."""

    async def tell_thresholds(self) -> None:
        """Let the thresholds hold that the controller has changed."""


class StepPolicy(Protocol):
    """Carries all epochs of a run out on a server."""

    def __init__(self, server: Conductor) -> None: ...

    async def run(self, sessions: list[Session]) -> None:
        """Train every epoch with these clients, which are in the order in which their batches are concatenated."""


class Barrier:
    """One step on the concatenated batches of all clients that still have some: deterministic, paced by the slowest."""

    def __init__(self, server: Conductor) -> None:
        self.server = server

    async def run(self, sessions: list[Session]) -> None:
        mean = None
        for epoch in range(self.server.config.training.epochs):
            await asyncio.gather(*(self.server.begin_epoch(session, epoch, mean) for session in sessions))
            while await self._step(sessions):
                pass
            mean = await self.server.end_epoch(epoch)

    async def _step(self, sessions: list[Session]) -> bool:
        """One step; False when every client's epoch is over."""
        await self.server.until(
            lambda: all(session.ready() for session in sessions),
            lambda: [session for session in sessions if not session.ready()],
            "its next batch",
        )
        members = [(session, session.pending) for session in sessions if session.pending is not None]
        if not members:
            return False
        if self.server.config.model.shape == "standard":
            await train(self.server, members)
            return True
        forward = await send_on(self.server, members)
        await self.server.until(
            lambda: all(answered(*member) for member in members),
            lambda: [session for session, pending in members if not answered(session, pending)],
            "its gradient",
        )
        await take_back(self.server, members, forward)
        return True


class Arrival:
    """A step per batch, in the order of arrival; a client at its epoch's end gets the latest mean and goes on."""

    def __init__(self, server: Conductor) -> None:
        self.server = server

    async def run(self, sessions: list[Session]) -> None:
        self.left = set(range(self.server.config.training.epochs))
        self.on_way: dict[str, Forward] = {}
        for session in sessions:
            await self.server.begin_epoch(session, 0, None)
        active = list(sessions)
        while active:
            await self.server.until(
                lambda: any(actionable(session) for session in active),
                lambda: [session for session in active if not actionable(session)],
                "its next message",
            )
            for session in [session for session in active if actionable(session)]:
                if session.pending is not None:
                    await self._step([(session, session.pending)])
                elif await self._next_epoch(session, sessions):
                    active.remove(session)

    async def _step(self, member: list[Member]) -> None:
        [(session, _)] = member
        if self.server.config.model.shape == "standard":
            await train(self.server, member)
        elif session.gradient is None:
            self.on_way[session.name] = await send_on(self.server, member)
        else:
            await take_back(self.server, member, self.on_way.pop(session.name))

    async def _next_epoch(self, session: Session, sessions: list[Session]) -> bool:
        """Send a client on; True when it has done its last epoch.

        The mean is over the last adapter of every client that has sent one. Perplexity is measured when the last
        client leaves an epoch.
        """
        epoch, epochs = session.epoch, self.server.config.training.epochs
        behind = [s for s in sessions if s.epoch < epoch or (s.epoch == epoch and s.epoch_end is None)]
        if not behind and epoch in self.left:
            self.left.discard(epoch)
            mean = await self.server.end_epoch(epoch)
        else:
            mean = await self.server.average(epoch)
        if epoch + 1 == epochs:
            return True
        await self.server.begin_epoch(session, epoch + 1, mean)
        return False


def answered(session: Session, pending: PendingStep) -> bool:
    """U-shape: whether a step that was sent on need not be waited for: its gradient is here, or it was given up."""
    return session.pending is not pending or session.gradient is not None


def actionable(session: Session) -> bool:
    """Whether a client awaits something of us: its step is here, its gradient is here, or its epoch is over."""
    if session.pending is None:
        return session.epoch_end is not None
    return not session.out or session.gradient is not None


async def train(server: Conductor, members: list[Member]) -> None:
    """One optimiser step on the members' batches; each gets its gradient, all at once."""
    await _reply(server, members, await server.compute(server.state.step, members))


async def send_on(server: Conductor, members: list[Member]) -> Forward:
    """U-shape: the body's forward pass; each member gets its output, all at once."""
    forward, messages = await server.compute(server.state.forward, members)
    sends = []
    for (session, _), message in zip(members, messages, strict=True):
        sends.append(server.send(session.name, message, {"packet": len(message.packet)}, rest="framing"))
    await asyncio.gather(*sends)
    return forward


async def take_back(server: Conductor, members: list[Member], forward: Forward) -> None:
    """U-shape: one optimiser step on the gradients of those members that did not give their step up."""
    answers = [session.gradient if session.pending is pending else None for session, pending in members]
    if any(answers):
        replies = await server.compute(server.state.backward, members, forward, answers)
        there = [member for member, answer in zip(members, answers, strict=True) if answer is not None]
        await _reply(server, there, replies)


async def _reply(server: Conductor, members: list[Member], replies: list[GradientDown]) -> None:
    """Accept the members' steps; new thresholds go ahead of the gradients, so that they hold from the next step on."""
    for session, pending in members:
        session.accept(pending)
    await server.tell_thresholds()
    sends = []
    for (session, _), reply in zip(members, replies, strict=True):
        sends.append(server.send(session.name, reply, {"packet": len(reply.packet)}, rest="framing"))
    await asyncio.gather(*sends)
    server.emit(server.state.progress(server.channel))


STEP_POLICIES: dict[str, type[StepPolicy]] = {"barrier": Barrier, "arrival": Arrival}

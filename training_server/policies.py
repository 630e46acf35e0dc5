"""When the server steps: at a barrier of all clients that still have batches, or at every batch as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from splitcom.adapters import AdapterState
from training_server.config import ServerConfig
from training_server.run import Answer, Member, OnWay, Run
from training_server.session import PendingStep, Session

T = TypeVar("T")


class Conductor(Protocol):
    """What a step policy needs of the server."""

    config: ServerConfig
    state: Run

    async def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a synchronous call on the compute thread."""

    async def answer(self, answers: list[Answer]) -> None:
        """Send every client its messages, all clients at once."""

    async def until(self, condition: Callable[[], bool], awaited: Callable[[], list[Session]], what: str) -> None:
        """Wait for a condition that incoming messages make true."""

    async def begin_epoch(self, session: Session, epoch: int, mean: AdapterState | None) -> None:
        """Send a client into an epoch."""

    async def average(self, epoch: int) -> AdapterState | None:
        """The mean of the clients' last adapters if it is due after this epoch."""

    async def end_epoch(self, epoch: int) -> AdapterState | None:
        """Average and evaluate; the mean adapter."""

    def progressed(self) -> None:
        """Tell whoever looks on how far the run is."""


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
        members = members_of(sessions)
        if not members:
            return not all(session.epoch_end is not None for session in sessions)
        if self.server.config.model.shape == "standard":
            await train(self.server, members)
            return True
        on_way = await send_on(self.server, members)
        await self.server.until(
            lambda: all(answered(*member) for member in on_way.members),
            lambda: [session for session, pending in on_way.members if not answered(session, pending)],
            "its gradient",
        )
        await take_back(self.server, on_way)
        return True


class Arrival:
    """A step per batch, in the order of arrival; a client at its epoch's end gets the latest mean and goes on."""

    def __init__(self, server: Conductor) -> None:
        self.server = server

    async def run(self, sessions: list[Session]) -> None:
        self.unmeasured = set(range(self.server.config.training.epochs))
        self.on_way: dict[str, OnWay] = {}
        for session in sessions:
            await self.server.begin_epoch(session, 0, None)
        active = list(sessions)
        while active:
            await self.server.until(
                lambda: any(actionable(session) for session in active),
                lambda: [session for session in active if not actionable(session)],
                "its next message",
            )
            for session in list(active):
                # Whatever was awaited since the last look may have changed what this client wants.
                if members := members_of([session]):
                    await self._step(session, members)
                elif session.epoch_end is not None and await self._next_epoch(session, sessions):
                    active.remove(session)

    async def _step(self, session: Session, members: list[Member]) -> None:
        if not actionable(session):
            return
        if self.server.config.model.shape == "standard":
            await train(self.server, members)
        elif session.gradient is None:
            self.on_way[session.name] = await send_on(self.server, members)
        else:
            await take_back(self.server, self.on_way.pop(session.name))

    async def _next_epoch(self, session: Session, sessions: list[Session]) -> bool:
        """Send a client on; True when it has done its last epoch.

        The mean is over the last adapter of every client that has sent one. Perplexity is measured when the last
        client leaves an epoch.
        """
        epoch, epochs = session.epoch, self.server.config.training.epochs
        behind = [s for s in sessions if s.epoch < epoch or (s.epoch == epoch and s.epoch_end is None)]
        if not behind and epoch in self.unmeasured:
            self.unmeasured.discard(epoch)
            mean = await self.server.end_epoch(epoch)
        else:
            mean = await self.server.average(epoch)
        if epoch + 1 == epochs:
            return True
        await self.server.begin_epoch(session, epoch + 1, mean)
        return False


def members_of(sessions: list[Session]) -> list[Member]:
    """The clients that have a step pending, with that step."""
    return [(session, pending) for session in sessions if (pending := session.pending) is not None]


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
    await server.answer(await server.compute(server.state.step, members))
    server.progressed()


async def send_on(server: Conductor, members: list[Member]) -> OnWay:
    """U-shape: the body's forward pass; each member gets its output, all at once."""
    on_way, answers = await server.compute(server.state.forward, members)
    await server.answer(answers)
    return on_way


async def take_back(server: Conductor, on_way: OnWay) -> None:
    """U-shape: one optimiser step on the gradients of those members that did not give their step up."""
    await server.answer(await server.compute(server.state.backward, on_way))
    server.progressed()


STEP_POLICIES: dict[str, type[StepPolicy]] = {"barrier": Barrier, "arrival": Arrival}

"""A connection whose answers wait until what they promise is on the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.admission import Admission
from broker.dialogue import Dialogue
from broker.durable_session import DurableSession
from broker.errors import ProtocolError
from broker.outbox import ANSWER_BYTES
from broker.packets import V5, Packet, Publish
from broker.reasons import Reason

if TYPE_CHECKING:
    from broker.durable_registry import DurableRegistry

FAILURE_TEXT = "the broker cannot store messages now"


class DurableDialogue(Dialogue):
    """Answers keep their order; one that needs no commit waits only where another is before it."""

    __slots__ = ("_attached", "_held", "_held_bytes", "_mark", "_outlet", "_send", "_store")

    def __init__(
        self,
        registry: DurableRegistry,
        session: DurableSession,
        admission: Admission,
        answer: Callable[[bytes], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(registry, session, admission, self._hold, clock)
        self._store = registry.archive.store
        self._send = answer
        self._outlet = session.outlet
        self._attached = session.attached
        self._mark = 0  # how many changes there were before the packet that is handled
        self._held: deque[tuple[int, bytes]] = deque()  # with the batch that each waits for
        self._held_bytes = 0

    @property
    def opened(self) -> bool:
        return self._store.committed >= self._attached

    def resume(self, connack: bytes) -> None:
        self._mark = self._store.changes - (not self.opened)
        super().resume(connack)

    def handle(self, packet: Packet) -> None:
        self._mark = self._store.changes
        super().handle(packet)

    def _accept(self, packet: Publish, topic: str) -> tuple[Reason, str]:
        if packet.qos and self._store.failure:
            if self._version != V5:
                raise ProtocolError(FAILURE_TEXT, Reason.QUOTA_EXCEEDED)
            return Reason.QUOTA_EXCEEDED, FAILURE_TEXT
        return super()._accept(packet, topic)

    def _hold(self, packet: bytes) -> None:
        if not self._held and self._store.changes == self._mark:
            self._send(packet)
            return
        self._held.append((self._store.batch, packet))
        self._held_bytes += len(packet)
        if self._held_bytes > ANSWER_BYTES:
            self._end("too many answers wait for the broker's store")
        else:
            self._store.settled(self._settled)

    def _settled(self) -> None:
        while self._held and self._held[0][0] <= self._store.committed:
            _, packet = self._held.popleft()
            self._held_bytes -= len(packet)
            self._send(packet)
        if self._held and self._store.failure:
            self._end(FAILURE_TEXT)
        elif self._held:
            self._store.settled(self._settled)

    def _end(self, text: str) -> None:
        self._held.clear()
        if self._outlet is not None:
            self._outlet.end(Reason.QUOTA_EXCEEDED, text)

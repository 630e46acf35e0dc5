"""A router whose subscriptions and retained messages the store follows."""

from __future__ import annotations

from broker.application_message import Message
from broker.archive import Archive
from broker.counters import Totals
from broker.durable_session import DurableSession
from broker.packets import Request
from broker.retained import Retained
from broker.router import Router
from broker.session import Session


class DurableRetained(Retained):
    """Retained messages, each with a row."""

    def __init__(self, cap: int, archive: Archive) -> None:
        super().__init__(cap)
        self._archive = archive

    def restore(self, message: Message) -> None:
        """Hold a message of the store, whatever the cap is now."""
        self._put(message)

    def keep(self, message: Message) -> bool:
        old = self._messages.get(message.topic)
        if not super().keep(message):
            return False
        if old is not None:
            self._archive.let_go(old)
        if len(message.payload):
            self._archive.store.put("retained", (message.topic,), (self._archive.hold(message),))
        elif old is not None:
            self._archive.store.remove("retained", message.topic)
        return True

    def _forget(self, message: Message) -> None:
        super()._forget(message)
        self._archive.store.remove("retained", message.topic)
        self._archive.let_go(message)


class DurableRouter(Router):
    """All sessions are `DurableSession`; the broker's own topics are not stored."""

    def __init__(self, queue_bytes: int, retained_bytes: int, totals: Totals, archive: Archive) -> None:
        super().__init__(queue_bytes, retained_bytes, totals)
        self._archive = archive
        self.retained: DurableRetained = DurableRetained(retained_bytes, archive)

    def subscribe(self, session: Session, request: Request, qos: int, identifier: int) -> bool:
        new = super().subscribe(session, request, qos, identifier)
        assert isinstance(session, DurableSession)
        if session.row:
            options = (qos, request.no_local, request.retain_as_published, identifier)
            self._archive.store.put("subscription", (session.row, request.topic_filter), options)
        return new

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        existed = super().unsubscribe(session, topic_filter)
        assert isinstance(session, DurableSession)
        if existed and session.row:
            self._archive.store.remove("subscription", session.row, topic_filter)
        return existed

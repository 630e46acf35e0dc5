"""A registry that the store follows: what a broker has when it starts is what the one before it had."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from broker.admission import Admission
from broker.application_message import Delivery, Message
from broker.archive import Archive, Filed, request_of, will_of
from broker.authority import Authority, Grants
from broker.broker_config import BrokerConfig
from broker.durable_dialogue import FAILURE_TEXT, DurableDialogue
from broker.durable_router import DurableRouter
from broker.durable_session import DurableSession
from broker.errors import ProtocolError, SettingsError
from broker.packets import Will
from broker.reasons import Reason
from broker.registry import Registry
from broker.session import Outlet, Session
from broker.store import Row, Store


class DurableRegistry(Registry):
    """Sessions that are kept, their messages and wills, and retained messages outlive the process.

    Raises SettingsError for a store that cannot be used.
    """

    def __init__(self, config: BrokerConfig, authority: Authority) -> None:
        super().__init__(config, authority)
        store = self.store = Store(config.store)
        self.archive = Archive(store, self._loop.time)
        self.router: DurableRouter = DurableRouter(config.queue_bytes, config.retained_bytes, self.totals, self.archive)
        try:
            self._restore(store)
        except (ProtocolError, TypeError, ValueError, LookupError) as error:
            super().close()
            store.abandon()
            if isinstance(error, SettingsError):
                raise
            raise SettingsError(f"store: {config.store}: its rows do not fit together: {error}") from None

    def attach(
        self, outlet: Outlet, admission: Admission, grants: Grants, clean_start: bool, will: Will | None = None
    ) -> tuple[Session, bool]:
        store = self.archive.store
        if store.failure and admission.expiry_s:
            raise ProtocolError(FAILURE_TEXT, Reason.QUOTA_EXCEEDED)
        changes = store.changes
        session, resumed = super().attach(outlet, admission, grants, clean_start, will)
        assert isinstance(session, DurableSession)
        if admission.expiry_s:
            if not session.row:
                session.keep()
            session.offered = self.archive.last_row
            self._file(session, None)
            if will:
                self.archive.file_will(session.row, will, None)
            elif resumed:
                store.remove("will", session.row)
        else:
            session.unkeep()
        session.attached = store.batch if store.changes != changes else 0
        return session, resumed

    def detach(self, session: Session, will: Will | None) -> None:
        super().detach(session, will)
        assert isinstance(session, DurableSession)
        if not session.row:
            return
        self._file(session, time.time() + session.expiry_s)
        due, waiting = self._wills.get(session, (None, None))
        if isinstance(due, asyncio.TimerHandle) and waiting is not None:
            self.archive.file_will(session.row, waiting, due.when() - self._loop.time())
        elif due is None and not self.closing:
            self.archive.store.remove("will", session.row)
        # Else its row stays: until it is published, which is soon, or until the next start.

    def close(self) -> None:
        super().close()
        self.archive.store.close()

    def converse(
        self, session: Session, admission: Admission, answer: Callable[[bytes], None], clock: Callable[[], float]
    ) -> DurableDialogue:
        assert isinstance(session, DurableSession)
        return DurableDialogue(self, session, admission, answer, clock)

    def _new_session(self, client_id: str) -> DurableSession:
        return DurableSession(client_id, self.totals, self._drops.note, self.archive)

    def _file(self, session: DurableSession, expires_at: float | None) -> None:
        """Write the session itself; None while its client is connected, which may get all that waits for it."""
        row = (session.client_id, session.expiry_s, expires_at, session.offered)
        self.archive.store.put("session", (session.row,), row)

    def _restore(self, store: Store) -> None:
        archive = self.archive
        messages = archive.messages()
        sessions = {row[0]: self._restore_session(*row[1:]) for row in store.read("session")}
        for number, *subscription in store.read("subscription"):
            self.router.subscribe(sessions[number], *request_of(subscription))
        filed: dict[int, list[Row]] = defaultdict(list)
        for number, owner, *delivery in store.read("delivery"):
            filed[owner].append((number, *delivery))
        archive.last_row = max([archive.last_row, *sessions, *(rows[-1][0] for rows in filed.values())])
        for number, session in sessions.items():
            self._restore_deliveries(number, session, filed.pop(number, []), messages)
        if filed:
            raise ValueError("deliveries without a session")
        for owner, packet_id in store.read("received"):
            set.add(sessions[owner].received, packet_id)
        for _, number in sorted(store.read("retained"), key=lambda row: int(row[1])):
            self.router.retained.restore(archive.adopt(messages[number]))
        for owner, *will, due_at in store.read("will"):
            self._restore_will(sessions[owner], will, due_at)
        archive.sweep()

    def _restore_session(self, client_id: str, expiry_s: int, expires_at: float | None, offered: int) -> DurableSession:
        """A session whose client was connected until the end runs out as if it had left now."""
        session = self.sessions[client_id] = self._new_session(client_id)
        session.expiry_s, session.offered = expiry_s, offered
        left_s = expiry_s if expires_at is None else expires_at - time.time()
        self._expiries[session] = self._loop.call_later(max(0, left_s), self._expire, session)
        return session

    def _restore_deliveries(
        self, number: int, session: DurableSession, rows: list[Row], messages: dict[int, Message]
    ) -> None:
        deliveries: list[Delivery] = []
        released: dict[int, int] = {}
        last_id = 0
        for row, message, qos, retain, identifiers, packet_id, offered in rows:
            last_id = packet_id
            if message is None:
                released[packet_id] = row
            else:
                held = self.archive.adopt(messages[message])
                ids = tuple(map(int, identifiers.split()))
                dup = bool(offered) or row <= session.offered
                deliveries.append(Filed(held, qos, bool(retain), ids, packet_id, dup, row))
        session.restore(number, deliveries, released, last_id)
        self._file(session, time.time() + self._expiries[session].when() - self._loop.time())

    def _restore_will(self, session: DurableSession, row: Sequence[Any], due_at: float | None) -> None:
        """The will of a client that was connected until the end is due as if it had vanished now."""
        will, delay_s = will_of(row)
        due_in_s = min(delay_s, session.expiry_s) if due_at is None else max(0, due_at - time.time())
        self._wills[session] = (self._loop.call_later(due_in_s, self._will_is_due, session), will)
        self.archive.file_will(session.row, will, due_in_s)

    def _forget(self, session: Session) -> None:
        assert isinstance(session, DurableSession)
        session.unkeep()
        super()._forget(session)

    def _will_is_due(self, session: Session) -> None:
        super()._will_is_due(session)
        self._remove_will(session)

    def _drop_will(self, session: Session) -> None:
        if session in self._wills:
            super()._drop_will(session)
            self._remove_will(session)

    def _remove_will(self, session: Session) -> None:
        """Within the call that publishes it, so that both are in one batch."""
        assert isinstance(session, DurableSession)
        if session.row and session.outlet is None:
            self.archive.store.remove("will", session.row)

"""All sessions by client id: who is connected, who comes back, whose session and will run out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.admission import Admission
from broker.application_message import Message
from broker.authority import Authority, Grants, may_publish
from broker.broker_config import BrokerConfig
from broker.counters import Counters, Totals
from broker.dialogue import Dialogue
from broker.drop_log import DropLog
from broker.errors import ProtocolError
from broker.log import told
from broker.packets import Will
from broker.properties import Property
from broker.reasons import Reason
from broker.router import Router
from broker.session import Outlet, Session
from broker.store import Store
from broker.topic_filter import unshared


class Registry:
    """What the connections of one broker share; `connected` is how many sessions have one. For one event loop only.

    `store` is the file that follows it, None where everything ends with the process; `closing` when that is soon.
    """

    def __init__(self, config: BrokerConfig, authority: Authority) -> None:
        self.config = config
        self.authority = authority
        self.totals = Totals()
        self.counters = Counters(limit=2 * config.max_sessions)
        self.router = Router(config.queue_bytes, config.retained_bytes, self.totals)
        self.sessions: dict[str, Session] = {}
        self.connected = 0
        self.store: Store | None = None
        self.closing = False
        self._drops = DropLog()
        self._loop = asyncio.get_running_loop()
        self._expiries: dict[Session, asyncio.TimerHandle] = {}
        self._wills: dict[Session, tuple[asyncio.Handle, Will]] = {}

    def attach(
        self, outlet: Outlet, admission: Admission, grants: Grants, clean_start: bool, will: Will | None = None
    ) -> tuple[Session, bool]:
        """Give the connection its session, new or resumed (True); an older connection of the client id is ended.

        The will is the client's, which `detach` is told again if it is left. Raises ProtocolError where there are too
        many sessions.
        """
        known = self.sessions.get(admission.client_id)
        if known and known.outlet:
            known.outlet.end(Reason.SESSION_TAKEN_OVER, "another connection has this client id now")
        if clean_start and admission.client_id in self.sessions:
            self._discard(self.sessions[admission.client_id])
        session = self.sessions.get(admission.client_id)
        resumed = session is not None
        if session is None:
            if len(self.sessions) >= self.config.max_sessions:
                raise ProtocolError(f"{len(self.sessions)} sessions exist already", Reason.QUOTA_EXCEEDED)
            session = self.sessions[admission.client_id] = self._new_session(admission.client_id)
        self._cancel(session)
        session.outlet = outlet
        session.expiry_s = admission.expiry_s
        session.receive_maximum = admission.receive_maximum
        session.grants = grants
        self.connected += 1
        self.totals.most_connected = max(self.totals.most_connected, self.connected)
        if resumed:
            self._confine(session)
        return session, resumed

    def detach(self, session: Session, will: Will | None) -> None:
        """The session's connection has ended; the will, if one is left, is published now or after its delay."""
        session.suspend()
        self.connected -= 1
        if will:
            delay = min(will.properties.get(Property.WILL_DELAY, 0), session.expiry_s)
            # Never within this call: a will may disconnect a slow subscriber whose will disconnects the next one.
            soon, later = self._loop.call_soon, self._loop.call_later
            due = later(delay, self._will_is_due, session) if delay else soon(self._will_is_due, session)
            self._wills[session] = due, will
        if session.expiry_s:
            self._expiries[session] = self._loop.call_later(session.expiry_s, self._expire, session)
        else:
            self._forget(session)

    def converse(
        self, session: Session, admission: Admission, answer: Callable[[bytes], None], clock: Callable[[], float]
    ) -> Dialogue:
        """What the client of an attached session says from now on is handled there."""
        return Dialogue(self, session, admission, answer, clock)

    def change_expiry(self, session: Session, expiry_s: int) -> None:
        """A client changes on leaving how long its session is kept; ProtocolError where it was not to be kept."""
        if expiry_s and not session.expiry_s:
            raise ProtocolError("a session that was to end is to be kept", Reason.PROTOCOL_ERROR)
        session.expiry_s = min(expiry_s, self.config.session_expiry_s)

    def renew(self, renewed: Callable[[Grants], Grants]) -> None:
        """Give every client new grants for its old; ProtocolError from `renewed` ends the client, without its will."""
        for session in list(self.sessions.values()):
            try:
                session.grants = renewed(session.grants)
            except ProtocolError as error:
                if session.outlet is not None:
                    session.outlet.end(Reason(error.reason_code), str(error), will=False)
                else:
                    self._drop_will(session)
            else:
                if session.outlet is not None:
                    self._confine(session)

    def close(self) -> None:
        """Cancel all timers; nothing in memory outlives the broker."""
        for handle, _ in self._wills.values():
            handle.cancel()
        for handle in self._expiries.values():
            handle.cancel()

    def _new_session(self, client_id: str) -> Session:
        return Session(client_id, self.totals, self._drops.note)

    def _confine(self, session: Session) -> None:
        """What may be resumed is what the client may do now: somebody else may have left the session behind."""
        for topic_filter in list(session.subscriptions):
            if not session.grants.may_subscribe(unshared(topic_filter)):
                self.router.unsubscribe(session, topic_filter)
        session.retain_only(session.grants.may_receive)

    def _expire(self, session: Session) -> None:
        self.totals.sessions_expired += 1
        self._discard(session)

    def _discard(self, session: Session) -> None:
        """The session ends, and with it the delay of its will."""
        if session in self._wills:
            self._will_is_due(session)
        self._cancel(session)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        self.router.forget(session)
        del self.sessions[session.client_id]

    def _will_is_due(self, session: Session) -> None:
        handle, will = self._wills.pop(session)
        handle.cancel()
        if not may_publish(session.grants, will.topic):  # its right may be gone since CONNECT
            self.totals.forbidden += 1
            told("forbidden", client=session.client_id, topic=will.topic)
            return
        now = self._loop.time()
        message = Message.of(will.topic, will.payload, will.qos, will.retain, will.properties, now)
        self.router.publish(message, None)

    def _cancel(self, session: Session) -> None:
        """A client that comes back in time keeps its session and takes back its will, if that has a delay."""
        expiry = self._expiries.pop(session, None)
        if expiry:
            expiry.cancel()
        due, _ = self._wills.get(session, (None, None))
        if isinstance(due, asyncio.TimerHandle):
            self._drop_will(session)
        elif due is not None:
            self._will_is_due(session)

    def _drop_will(self, session: Session) -> None:
        """A will that waits, if there is one, is not published any more."""
        if session in self._wills:
            due, _ = self._wills.pop(session)
            due.cancel()

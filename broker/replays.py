"""Brings retained messages to new subscriptions: a little in each turn of the loop, whoever subscribes to how much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from broker.application_message import Delivery
from broker.retained import Retained
from broker.session import Session
from broker.subscription import Subscription

TURN_LOOKS = 512
"""How many retained topics are looked at in one turn of the loop, for all clients together."""
PAGE_LOOKS = 64
"""How many of them for one client before it is the next one's turn."""
MOST_WAITING = 512
"""How many messages may wait in a session before it gets retained ones only when all of them have left it."""


@dataclass(slots=True)
class _Replay:
    """What one subscription is still to get: the messages on the shelf from the topic `start` on, None for no more.

    Those that were retained after `last` are not among them: the client has got them as they came.
    """

    shelf: Retained
    last: int
    start: str | None = ""


class Replays:
    """Retained messages that are on their way to sessions through `deliver`.

    What fits the present turn is delivered at once, and the rest from the shelf in later turns, as the session has
    room for it in half of `queue_bytes`.
    """

    def __init__(
        self, queue_bytes: int, clock: Callable[[], float], deliver: Callable[[Session, Delivery], None]
    ) -> None:
        self._room = queue_bytes // 2
        self._clock = clock
        self._deliver = deliver
        self._pending: dict[Session, dict[str, _Replay]] = {}
        self._line: dict[Session, None] = {}  # whose next page is due, in order
        self._looks = TURN_LOOKS
        self._ticking = False

    def begin(self, session: Session, topic_filter: str, shelf: Retained, last: int) -> None:
        """Bring what is retained under a filter that the session has subscribed to."""
        self._pending.setdefault(session, {})[topic_filter] = _Replay(shelf, last)
        self._line[session] = None
        self._advance()

    def cancel(self, session: Session, topic_filter: str) -> None:
        """The subscription is gone."""
        pending = self._pending.get(session)
        if pending is not None:
            pending.pop(topic_filter, None)
            if not pending:
                self._finish(session)

    def _advance(self) -> None:
        while self._line and self._looks > 0:
            session = next(iter(self._line))
            del self._line[session]
            self._go_on(session)
        self._tick()

    def _tick(self) -> None:
        if not self._ticking and (self._line or self._looks < TURN_LOOKS):
            self._ticking = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._ticking = False
        self._looks = TURN_LOOKS
        self._advance()

    def _go_on(self, session: Session) -> None:
        """Bring one page, and decide when the session is due again."""
        pending = self._pending[session]
        topic_filter, replay = next(iter(pending.items()))
        if session.outlet is None or not self._bring_page(session, session.subscriptions[topic_filter], replay):
            session.when_idle = partial(self._resume, session)
            return
        if replay.start is None:
            del pending[topic_filter]
        if pending:
            self._line[session] = None
        else:
            self._finish(session)

    def _bring_page(self, session: Session, subscription: Subscription, replay: _Replay) -> bool:
        """False where the session has enough for now."""
        looks = min(PAGE_LOOKS, self._looks)
        start = replay.start or ""
        messages, following, taken = replay.shelf.page(subscription.topic_filter, self._clock(), start, looks)
        self._looks -= taken
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        for message in messages:
            if message.number > replay.last:
                continue
            if session.waiting >= MOST_WAITING or not session.has_room(message, self._room):
                replay.start = message.topic
                return False
            self._deliver(session, Delivery(message, min(message.qos, subscription.qos), True, identifiers))
        replay.start = following
        return True

    def _resume(self, session: Session) -> None:
        """Nothing waits in the session any more: its next page comes in the next turn."""
        session.when_idle = None
        self._line[session] = None
        self._tick()

    def _finish(self, session: Session) -> None:
        del self._pending[session]
        self._line.pop(session, None)
        session.when_idle = None

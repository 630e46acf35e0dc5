"""Brings messages from publishers to subscriptions, and keeps every subscriber's queue under its byte cap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.application_message import Delivery, Message
from broker.counters import Totals
from broker.packets import Request
from broker.reasons import Reason
from broker.replays import Replays
from broker.retained import Retained
from broker.session import Session
from broker.subscription import Group, Subscription
from broker.topic_filter import SYS, FilterTree, is_shared, unshared

_CACHED_TOPICS = 4096
_CACHED_TARGETS = 1 << 16
_CACHED_TOPIC_CHARACTERS = 1024
_OWN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """One session that gets a topic's messages, once, however many of its subscriptions overlap.

    `own` is the target for messages of the session's own client, None where all subscriptions say No Local.
    """

    session: Session
    qos: int
    retain_as_published: bool
    identifiers: tuple[int, ...]
    own: _Target | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Route:
    """Where the messages of one topic go."""

    targets: tuple[_Target, ...]
    groups: tuple[Group, ...]


class Router:
    """Subscriptions of all sessions and the retained messages; `queue_bytes` is the cap of each subscriber.

    `clock` gives seconds as the deadlines of messages have them.
    """

    def __init__(
        self, queue_bytes: int, retained_bytes: int, totals: Totals, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.retained = Retained(retained_bytes)
        self._own = Retained(_OWN_BYTES)
        self._queue_bytes = queue_bytes
        self._totals = totals
        self._tree: FilterTree[Subscription | Group] = FilterTree()
        self._groups: dict[str, Group] = {}
        self._cache: dict[str, _Route] = {}
        self._cached_targets = 0
        self._clock = clock
        self._replays = Replays(queue_bytes, clock, self._deliver)
        self._last_number = 0

    def subscribe(self, session: Session, request: Request, qos: int, identifier: int) -> bool:
        """Add or replace a subscription, a shared one among them; True where it is new to the session."""
        topic_filter = request.topic_filter
        subscription = Subscription(
            session, topic_filter, qos, request.no_local, request.retain_as_published, identifier
        )
        existed = self._remove(session, topic_filter)
        session.subscribe(subscription)
        if is_shared(topic_filter):
            self._join(subscription)
        else:
            self._uncache()
            self._tree.add(topic_filter, subscription)
        return not existed

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Remove a subscription; False where there was none."""
        self._replays.cancel(session, topic_filter)
        return self._remove(session, topic_filter)

    def _remove(self, session: Session, topic_filter: str) -> bool:
        subscription = session.unsubscribe(topic_filter)
        if subscription is None:
            return False
        if is_shared(topic_filter):
            self._leave(subscription)
        else:
            self._uncache()
            self._tree.remove(topic_filter, subscription)
        return True

    def forget(self, session: Session) -> None:
        """Remove all subscriptions of a session that ends."""
        for topic_filter in list(session.subscriptions):
            self.unsubscribe(session, topic_filter)

    def publish(self, message: Message, source: Session | None) -> Reason:
        """Retain the message if it asks for that and queue it for every subscriber; the reason is PUBACK's."""
        if message.retain and not self._retain(message):
            self._totals.dropped += 1
            return Reason.QUOTA_EXCEEDED
        route = self._cache.get(message.topic)
        if route is None:
            route = self._route(message.topic)
        for target in route.targets:
            addressed = target.own if target.session is source else target
            if addressed is not None:
                self._send(message, addressed)
        for group in route.groups:
            member = self._pick(group, message)
            if member is not None:
                self._send(message, _combine(member.session, [member]))
            elif message.qos:
                self._totals.dropped += 1
        return Reason.SUCCESS if route.targets or route.groups else Reason.NO_MATCHING_SUBSCRIBERS

    def send_retained(self, session: Session, topic_filter: str) -> None:
        """Bring the session the retained messages of a subscription that was just made; many of them take a while."""
        if topic_filter not in session.subscriptions:
            return  # the answer to its SUBSCRIBE has ended the client, and the session with it
        self._replays.begin(session, topic_filter, self._shelf(topic_filter), self._last_number)

    def _retain(self, message: Message) -> bool:
        self._last_number += 1
        message.number = self._last_number
        shelf = self._shelf(message.topic)
        return shelf.keep(message) or (shelf.sweep(self._clock()) and shelf.keep(message))

    def _pick(self, group: Group, message: Message) -> Subscription | None:
        member = group.pick(message, self._queue_bytes)
        if member is None and message.qos:
            group.sweep(self._clock())
            member = group.pick(message, self._queue_bytes)
        return member

    def _shelf(self, topic: str) -> Retained:
        """Where messages of this topic or filter are retained: the broker's own take no room from those of clients."""
        return self._own if topic.startswith(SYS) else self.retained

    def _join(self, subscription: Subscription) -> None:
        group = self._groups.get(subscription.topic_filter)
        if group is None:
            self._uncache()
            group = self._groups[subscription.topic_filter] = Group()
            self._tree.add(unshared(subscription.topic_filter), group)
        group.add(subscription)

    def _leave(self, subscription: Subscription) -> None:
        group = self._groups[subscription.topic_filter]
        group.remove(subscription)
        if not group.members:
            self._uncache()
            del self._groups[subscription.topic_filter]
            self._tree.remove(unshared(subscription.topic_filter), group)

    def _route(self, topic: str) -> _Route:
        by_session: dict[Session, list[Subscription]] = {}
        groups: list[Group] = []
        for found in self._tree.match(topic):
            if isinstance(found, Group):
                groups.append(found)
            else:
                by_session.setdefault(found.session, []).append(found)
        targets = tuple(_target(session, subscriptions) for session, subscriptions in by_session.items())
        route = _Route(targets, tuple(groups))
        self._remember(topic, route)
        return route

    def _remember(self, topic: str, route: _Route) -> None:
        """Keep a route that somebody may need again, within bounds of memory."""
        count = len(route.targets) + len(route.groups)
        if not count or len(topic) > _CACHED_TOPIC_CHARACTERS:
            return
        if len(self._cache) >= _CACHED_TOPICS or self._cached_targets + count > _CACHED_TARGETS:
            self._uncache()
        self._cache[topic] = route
        self._cached_targets += count

    def _uncache(self) -> None:
        self._cache.clear()
        self._cached_targets = 0

    def _send(self, message: Message, target: _Target) -> None:
        qos = message.qos if message.qos < target.qos else target.qos
        retain = message.retain and target.retain_as_published
        self._deliver(target.session, Delivery(message, qos, retain, target.identifiers))

    def _deliver(self, session: Session, delivery: Delivery) -> None:
        """Queue one delivery, or drop it: a publisher never waits for somebody else's link.

        Over the cap, QoS 0 is dropped and counted; a connected subscriber of QoS 1 or 2 is told 0x97 and
        disconnected, since it must not lose messages silently; for an absent one the message is dropped and counted.
        """
        outlet = session.outlet
        if outlet is None and not delivery.qos:
            return
        if session.grants.checks_deliveries and not session.accepts(delivery.message.topic):
            return
        if session.has_room(delivery.message, self._queue_bytes) or self._makes_room(session, delivery.message):
            session.enqueue(delivery)
            if outlet is not None:
                outlet.wake()
            return
        session.count_drop()
        if outlet is not None and delivery.qos:
            outlet.end(Reason.QUOTA_EXCEEDED, f"more than {self._queue_bytes} bytes wait for this client")

    def _makes_room(self, session: Session, message: Message) -> bool:
        session.sweep(self._clock())
        return session.has_room(message, self._queue_bytes)


def _target(session: Session, subscriptions: list[Subscription]) -> _Target:
    local = [subscription for subscription in subscriptions if not subscription.no_local]
    return _combine(session, subscriptions, _combine(session, local) if local else None)


def _combine(session: Session, subscriptions: list[Subscription], own: _Target | None = None) -> _Target:
    return _Target(
        session,
        max(s.qos for s in subscriptions),
        any(s.retain_as_published for s in subscriptions),
        tuple(s.identifier for s in subscriptions if s.identifier),
        own,
    )

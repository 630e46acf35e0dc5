"""What the broker remembers of a client: subscriptions, messages that wait, and every packet id in use.

No sockets and no clocks: the time is an argument, and the connection is seen only as an `Outlet`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Protocol

from broker.application_message import Delivery, Message
from broker.authority import Everything, Grants
from broker.counters import Totals
from broker.reasons import Reason
from broker.subscription import Subscription

SWEEP_S = 1.0
"""How long after one search for expired messages the next one may be."""


class Outlet(Protocol):
    """What a session and the router need of a connection."""

    def wake(self) -> None:
        """Something waits in the session."""

    def end(self, reason: Reason, text: str = "", *, will: bool = True) -> None:
        """End the connection and say why."""


def _ignore(client_id: str) -> None:
    pass


class Session:
    """One client's state; it outlives the connection where `expiry_s` is above 0.

    `receive_maximum` bounds the packet ids that the client holds, `received` are the ids of QoS 2 messages that came
    from the client and that it has not released yet. `on_drop` is told the client id whenever a message is dropped, and
    `when_idle` is called where nothing waits to be sent.
    """

    __slots__ = (
        "_in_flight",
        "_last_id",
        "_on_drop",
        "_released",
        "_sweep_at",
        "_swept_at",
        "_waiting",
        "client_id",
        "expiry_s",
        "filter_bytes",
        "grants",
        "held_bytes",
        "outlet",
        "receive_maximum",
        "received",
        "subscriptions",
        "totals",
        "when_idle",
    )

    def __init__(self, client_id: str, totals: Totals, on_drop: Callable[[str], None] = _ignore) -> None:
        self.client_id = client_id
        self.totals = totals
        self._on_drop = on_drop
        self.grants: Grants = Everything()
        self.subscriptions: dict[str, Subscription] = {}
        self.filter_bytes = 0
        self.outlet: Outlet | None = None
        self.expiry_s = 0
        self.receive_maximum = 0xFFFF
        self.held_bytes = 0
        self.when_idle: Callable[[], None] | None = None
        self.received: set[int] = set()
        self._waiting: deque[Delivery] = deque()
        self._in_flight: dict[int, Delivery] = {}
        self._released: dict[int, None] = {}  # a set that keeps its order
        self._last_id = 0
        self._sweep_at = math.inf  # before that, nothing that waits has expired
        self._swept_at = -math.inf

    def subscribe(self, subscription: Subscription) -> None:
        """Remember a subscription, in place of the one with the same filter."""
        self.unsubscribe(subscription.topic_filter)
        self.subscriptions[subscription.topic_filter] = subscription
        self.filter_bytes += size_of(subscription.topic_filter)

    def unsubscribe(self, topic_filter: str) -> Subscription | None:
        """Forget a subscription; None where there was none."""
        subscription = self.subscriptions.pop(topic_filter, None)
        if subscription is not None:
            self.filter_bytes -= size_of(topic_filter)
        return subscription

    def has_room(self, message: Message, cap: int) -> bool:
        """Whether the message fits under the byte cap; one message always fits, however large."""
        return self.held_bytes == 0 or self.held_bytes + message.cost <= cap

    def accepts(self, topic: str) -> bool:
        """Whether the client may receive messages of this topic."""
        return not self.grants.checks_deliveries or self.grants.may_receive(topic)

    def enqueue(self, delivery: Delivery) -> None:
        """Append a delivery; the caller asks `has_room` first."""
        message = delivery.message
        self._waiting.append(delivery)
        self.held_bytes += message.cost
        if message.deadline is not None and message.deadline < self._sweep_at:
            self._sweep_at = message.deadline

    def sweep(self, now: float) -> None:
        """Forget what has expired while it waits, so that there is room; at most once in SWEEP_S."""
        if now < max(self._sweep_at, self._swept_at + SWEEP_S):
            return
        self._swept_at = now
        alive = [delivery for delivery in self._waiting if not delivery.expired(now)]
        if len(alive) < len(self._waiting):
            self.totals.expired += len(self._waiting) - len(alive)
            for delivery in self._waiting:
                if delivery.expired(now):
                    self._discard(delivery)
        self._hold(alive)

    def next_delivery(self, now: float) -> Delivery | None:
        """The delivery to send now, in order; None where nothing waits or the client's receive maximum is reached.

        QoS 1 and 2 get a packet id and stay held until `acknowledge` or `release`. Messages that expired before they
        were sent once are passed over.
        """
        waiting = self._waiting
        while waiting:
            delivery = waiting[0]
            if delivery.message.deadline is not None and delivery.expired(now):
                self._pass_over()
                continue
            if delivery.qos and len(self._in_flight) + len(self._released) >= self.receive_maximum:
                return None
            waiting.popleft()
            if delivery.qos:
                delivery.packet_id = delivery.packet_id or self._free_id()
                self._in_flight[delivery.packet_id] = delivery
            else:
                self.held_bytes -= delivery.message.cost
            return delivery
        if self.when_idle is not None:
            self.when_idle()
        return None

    def acknowledge(self, packet_id: int) -> bool:
        """A PUBACK came; False where no delivery of QoS 1 was in flight under this id."""
        return self._complete(packet_id, 1)

    def reject(self, packet_id: int) -> bool:
        """A PUBREC with a reason of failure came, which ends a delivery of QoS 2; False where there was none."""
        return self._complete(packet_id, 2)

    def release(self, packet_id: int) -> bool:
        """A PUBREC came: the message is let go and its id kept until `complete`; False where the id is unknown."""
        if self._complete(packet_id, 2):
            self._released[packet_id] = None
        return packet_id in self._released

    def complete(self, packet_id: int) -> bool:
        """A PUBCOMP came; False where the id was not released."""
        known = packet_id in self._released
        self._released.pop(packet_id, None)
        return known

    def drop(self, delivery: Delivery) -> None:
        """A delivery that `next_delivery` gave cannot be sent; it counts as done."""
        if delivery.qos:
            self._complete(delivery.packet_id, delivery.qos)
        self.count_drop()

    def count_drop(self) -> None:
        """A message that was to go to this client is dropped."""
        self.totals.dropped += 1
        self._on_drop(self.client_id)

    def suspend(self) -> None:
        """The connection is gone: QoS 0 is forgotten; what was in flight comes first again, with its id and DUP."""
        self.outlet = None
        for delivery in self._in_flight.values():
            delivery.dup = True
        in_flight = list(self._in_flight.values())
        self._in_flight.clear()
        self._hold([*in_flight, *(delivery for delivery in self._waiting if delivery.qos)])

    def retain_only(self, allowed: Callable[[str], bool]) -> None:
        """Forget what waits of topics that are not allowed to the client any more."""
        self._hold([delivery for delivery in self._waiting if allowed(delivery.message.topic)])

    @property
    def waiting(self) -> int:
        """Deliveries not sent yet, or to be sent again."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Deliveries sent and not acknowledged."""
        return len(self._in_flight)

    @property
    def released(self) -> Iterable[int]:
        """Ids of QoS 2 deliveries that await their PUBCOMP, oldest first."""
        return self._released.keys()

    def _complete(self, packet_id: int, qos: int) -> bool:
        delivery = self._in_flight.get(packet_id)
        if delivery is None or delivery.qos != qos:
            return False
        del self._in_flight[packet_id]
        self.held_bytes -= delivery.message.cost
        return True

    def _pass_over(self) -> None:
        """The first delivery that waits has expired."""
        self.held_bytes -= self._waiting.popleft().message.cost
        self.totals.expired += 1

    def _hold(self, deliveries: list[Delivery]) -> None:
        self._waiting = deque(deliveries)
        deadlines = (delivery.message.deadline for delivery in deliveries if not delivery.dup)
        self._sweep_at = min((deadline for deadline in deadlines if deadline is not None), default=math.inf)
        self.held_bytes = sum(delivery.message.cost for delivery in chain(deliveries, self._in_flight.values()))

    def _discard(self, delivery: Delivery) -> None:
        """The delivery is not held any more."""

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % 0xFFFF + 1
            if not self._uses(self._last_id):
                return self._last_id

    def _uses(self, packet_id: int) -> bool:
        """Whether the client holds a message, or its id, under this one."""
        return packet_id in self._in_flight or packet_id in self._released


def size_of(topic_filter: str) -> int:
    """What a topic filter counts for the limit of a client's filters, in bytes."""
    return len(topic_filter.encode())

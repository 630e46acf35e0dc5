"""A session that the store follows, as long as it is to outlive its connection."""

from __future__ import annotations

from collections.abc import Callable

from broker.application_message import Delivery
from broker.archive import Archive, Filed
from broker.counters import Totals
from broker.session import Session


class _ReceivedIds(set[int]):
    """Ids of QoS 2 messages that the client has not released, each with a row."""

    def __init__(self, session: DurableSession) -> None:
        super().__init__()
        self._session = session

    def add(self, packet_id: int) -> None:
        super().add(packet_id)
        self._session.archive.store.put("received", (self._session.row, packet_id), ())

    def discard(self, packet_id: object) -> None:
        if packet_id in self:
            super().discard(packet_id)
            self._session.archive.store.remove("received", self._session.row, packet_id)


class DurableSession(Session):
    """`row` is the session's in the store, 0 while it has none, and `attached` the batch that holds its last CONNECT.

    Deliveries with rows up to `offered` waited at that CONNECT, so that the client may have got them since.

    A delivery of QoS 1 or 2 has its packet id from the start: the client that has seen a message before a crash gets
    it under the same id afterwards, which makes QoS 2 exactly once. One of QoS 2 is sent when it is on the disk.
    """

    __slots__ = ("_released_rows", "archive", "attached", "offered", "row")

    def __init__(self, client_id: str, totals: Totals, on_drop: Callable[[str], None], archive: Archive) -> None:
        super().__init__(client_id, totals, on_drop)
        self.archive = archive
        self.row = self.attached = self.offered = 0
        self._released_rows: dict[int, int] = {}

    def keep(self) -> None:
        """Give the session, which is new, a row."""
        self.row = self.archive.next_row()
        self.received = _ReceivedIds(self)

    def restore(self, row: int, deliveries: list[Delivery], released: dict[int, int], last_id: int) -> None:
        """Be what the store holds, but for the ids received; `released` are packet ids with their rows."""
        self.row = row
        self._hold(deliveries)
        self._released = dict.fromkeys(released)
        self._released_rows = released
        self._last_id = last_id
        self.received = _ReceivedIds(self)

    def unkeep(self) -> None:
        """Remove the session and all that belongs to it from the store; it goes on in memory alone."""
        store, row = self.archive.store, self.row
        if not row:
            return
        for delivery in [*self._in_flight.values(), *self._waiting]:
            if isinstance(delivery, Filed):
                self.archive.discard(delivery)
                delivery.row = 0
        for number in self._released_rows.values():
            store.remove("delivery", number)
        for packet_id in self.received:
            store.remove("received", row, packet_id)
        for topic_filter in self.subscriptions:
            store.remove("subscription", row, topic_filter)
        store.remove("will", row)
        store.remove("session", row)
        self._released_rows.clear()
        self.received = set(self.received)
        self.row = 0

    def enqueue(self, delivery: Delivery) -> None:
        if self.row and delivery.qos:
            packet_id = self._next_id()
            delivery = self.archive.file(self.row, delivery, packet_id, self.outlet is not None)
        super().enqueue(delivery)

    def next_delivery(self, now: float) -> Delivery | None:
        while self._waiting and self._waiting[0].message.deadline is not None and self._waiting[0].expired(now):
            self._pass_over()
        return super().next_delivery(now) if self._may_send() else None

    def release(self, packet_id: int) -> bool:
        delivery = self._in_flight.get(packet_id)
        known = super().release(packet_id)
        if self.row and isinstance(delivery, Filed) and packet_id not in self._in_flight:
            self.archive.store.put("delivery", (delivery.row,), (self.row, None, 2, False, "", packet_id, True))
            self._released_rows[packet_id] = delivery.row
        return known

    def complete(self, packet_id: int) -> bool:
        number = self._released_rows.pop(packet_id, 0)
        if number:
            self.archive.store.remove("delivery", number)
        return super().complete(packet_id)

    def retain_only(self, allowed: Callable[[str], bool]) -> None:
        for delivery in self._waiting:
            if not allowed(delivery.message.topic):
                self._discard(delivery)
        super().retain_only(allowed)

    def _may_send(self) -> bool:
        """Whether the first delivery that waits may go out before the next commit."""
        committed = self.archive.store.committed
        if not self._waiting:
            return True
        delivery = self._waiting[0]
        # There may be more deliveries than ids, so that one may have been given again before it was free.
        if self._uses(delivery.packet_id) and isinstance(delivery, Filed) and not self._change_id(delivery):
            return False
        if self.attached > committed or (
            isinstance(delivery, Filed) and delivery.qos == 2 and delivery.batch > committed
        ):
            self.archive.store.settled(self._wake)
            return False
        return True

    def _next_id(self) -> int:
        """A free id where there is one."""
        if len(self._in_flight) + len(self._released) < 0xFFFF:
            return self._free_id()
        self._last_id = self._last_id % 0xFFFF + 1
        return self._last_id

    def _change_id(self, delivery: Filed) -> bool:
        """Give a delivery another id; False where it may have been sent under its own, or where none is free.

        A client that got a message before a crash would take it for a new one under another id.
        """
        if delivery.dup or len(self._in_flight) + len(self._released) >= self.receive_maximum:
            return False
        delivery.packet_id = self._free_id()
        if self.row:
            self.archive.refile(self.row, delivery)
        return True

    def _wake(self) -> None:
        if self.outlet is not None:
            self.outlet.wake()

    def _pass_over(self) -> None:
        self._discard(self._waiting[0])
        super()._pass_over()

    def _complete(self, packet_id: int, qos: int) -> bool:
        delivery = self._in_flight.get(packet_id)
        done = super()._complete(packet_id, qos)
        if done and delivery is not None:
            self._discard(delivery)
        return done

    def _discard(self, delivery: Delivery) -> None:
        if self.row and isinstance(delivery, Filed):
            self.archive.discard(delivery)

"""Breaks of the handshakes of QoS 1 and 2, of what is sent again, and of order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from broker.packets import (
    Puback,
    Publish,
    Pubrec,
    Pubrel,
)
from broker.properties import Property
from tests.conformance.mutants_messages import OTHER_PACKET_ID, reason
from tests.conformance.mutation import (
    Mutant,
    after,
    all_of,
    any_flags,
    around,
    before,
    deliveries,
    handles,
    instead,
    silent,
    swapped,
)
from tests.conformance.wire import Kind

_Function = Callable[..., Any]


def _lowest_free_id(self: Any) -> int:
    """Released identifiers are taken again."""
    return next(number for number in range(1, 0xFFFF) if number not in self._in_flight)


def _qos_1_once() -> AbstractContextManager[None]:
    """An identifier of QoS 1 stands for the same message for ever."""
    seen: set[tuple[int, int]] = set()

    def change(dialogue: Any, packet: Any) -> Any:
        key = (id(dialogue), packet.packet_id)
        if packet.qos == 1 and key in seen:
            dialogue._answer(b"\x40\2" + packet.packet_id.to_bytes(2, "big"))
            return None
        seen.add(key)
        return packet

    return handles(Publish, change)()


def _acknowledges_all(acknowledge: _Function) -> _Function:
    def changed(self: Any, packet_id: int) -> Any:
        return [acknowledge(self, known) for known in list(self._in_flight)] != []

    return changed


def _kept_after_release(release: _Function) -> _Function:
    """The message is sent again although it was released."""

    def changed(self: Any, packet_id: int) -> Any:
        delivery = self._in_flight.get(packet_id)
        known = release(self, packet_id)
        if delivery:
            self._in_flight[packet_id] = delivery
        return known

    return changed


def _completes_any_qos(self: Any, packet_id: int) -> bool:
    return bool(self._complete(packet_id, 1) or self._complete(packet_id, 2))


def _as_if_new(self: Any, now: float) -> None:
    for delivery in self._waiting:
        delivery.packet_id = 0


def _no_duplicates_known(dialogue: Any, packet: Any) -> Any:
    dialogue._session.received.discard(packet.packet_id)
    return packet


def _remembers(dialogue: Any, packet: Any, *rest: Any) -> None:
    dialogue._session.received.add(packet.packet_id)


def _never_released(dialogue: Any, packet: Any) -> None:
    dialogue._answer(b"\x70\2" + packet.packet_id.to_bytes(2, "big"))


def _expired_is_forgotten(dialogue: Any, packet: Any) -> Any:
    return None if packet.dup and Property.MESSAGE_EXPIRY in packet.properties else packet


def _unless_refused(dialogue: Any, packet: Any) -> Any:
    return packet if packet.reason < 0x80 else None


def _reversed(self: Any) -> None:
    self._waiting.reverse()


def in_flight_lost(self: Any) -> None:
    self._in_flight.clear()


def _out_of_order(enqueue: _Function) -> _Function:
    held: list[tuple[Any, Any]] = []

    def changed(self: Any, delivery: Any) -> None:
        held.append((self, delivery))
        if len(held) == 4:
            while held:
                enqueue(*held.pop())

    return changed


BREAKS: list[tuple[tuple[str, ...], Mutant]] = [
    # QoS 1
    (("3.1.1:MQTT-4.3.2-1",), instead("broker.session:Session.acknowledge", lambda self, packet_id: False)),
    (("5:MQTT-4.3.2-2", "5:MQTT-4.3.3-2"), deliveries(dup=lambda fields: True)),
    (("5:MQTT-4.3.2-3",), around("broker.session:Session.acknowledge", _acknowledges_all)),
    (("3.1.1:MQTT-4.3.2-2", "5:MQTT-4.3.2-5"), _qos_1_once),
    (("5:MQTT-4.3.2-4", "5:MQTT-4.3.3-8", "5:MQTT-4.3.3-11"), OTHER_PACKET_ID),
    # QoS 2
    (("3.1.1:MQTT-4.3.3-1", "5:MQTT-4.3.3-6"), around("broker.session:Session.release", _kept_after_release)),
    (("5:MQTT-4.3.3-1",), instead("broker.session:Session._free_id", _lowest_free_id)),
    (("5:MQTT-4.3.3-3",), instead("broker.session:Session.acknowledge", _completes_any_qos)),
    (("5:MQTT-4.3.3-4",), silent(Kind.PUBREL)),
    (("5:MQTT-4.3.3-5",), before("broker.session:Session.suspend", lambda self: self._released.clear())),
    (("5:MQTT-4.3.3-7",), before("broker.session:Session.next_delivery", _as_if_new)),
    (("3.1.1:MQTT-4.3.3-2", "5:MQTT-4.3.3-10"), handles(Publish, _no_duplicates_known)),
    (("5:MQTT-4.3.3-9",), after("broker.dialogue:Dialogue._receive_once", _remembers)),
    (("5:MQTT-4.3.3-12",), handles(Pubrel, _never_released)),
    (("5:MQTT-4.3.3-13",), handles(Publish, _expired_is_forgotten)),
    (("5:MQTT-3.6.2-1",), reason(0x10, Kind.PUBREL)),
    (("5:MQTT-3.7.2-1",), reason(0x10, Kind.PUBCOMP)),
    (("3.1.1:MQTT-3.6.1-1", "5:MQTT-3.6.1-1"), any_flags(Kind.PUBREL, 2)),
    # What is sent again, and order
    (("3.1.1:MQTT-4.4.0-1", "5:MQTT-4.4.0-1"), before("broker.session:Session.suspend", in_flight_lost)),
    (("5:MQTT-4.4.0-2",), all_of(handles(Puback, _unless_refused), handles(Pubrec, _unless_refused))),
    (("3.1.1:MQTT-4.6.0-1",), after("broker.session:Session.suspend", _reversed)),
    (("3.1.1:MQTT-4.6.0-2",), swapped(Kind.PUBACK)),
    (("3.1.1:MQTT-4.6.0-3",), swapped(Kind.PUBREC)),
    (("3.1.1:MQTT-4.6.0-4",), swapped(Kind.PUBREL)),
    (
        ("3.1.1:MQTT-4.6.0-5", "5:MQTT-4.6.0-6", "3.1.1:MQTT-4.6.0-6", "5:MQTT-4.6.0-5"),
        around("broker.session:Session.enqueue", _out_of_order),
    ),
]
"""Statements, and the break under which their test has to fail."""

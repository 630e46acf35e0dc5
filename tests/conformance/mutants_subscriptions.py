"""Breaks of what concerns subscriptions: SUBSCRIBE, UNSUBSCRIBE, topics and filters, shares; and of WebSocket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from broker.packet_encoder import encode
from broker.packets import (
    Puback,
    Pubrec,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from tests.conformance.mutants_connect import LENIENT_TEXT
from tests.conformance.mutants_messages import OTHER_PACKET_ID, requests
from tests.conformance.mutants_qos import in_flight_lost
from tests.conformance.mutation import (
    Mutant,
    after,
    all_of,
    any_flags,
    around,
    before,
    bodies,
    excuses,
    given,
    handles,
    instead,
    silent,
)
from tests.conformance.wire import V5, Kind

_Function = Callable[..., Any]


# Subscriptions


def _options(change: Callable[[int], int]) -> Mutant:
    """The last byte of SUBSCRIBE, which is the options of its last filter, is read as another."""
    return bodies(Kind.SUBSCRIBE, lambda first, body: (first, body[:-1] + bytes((change(body[-1]),))))


def _subacks(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Mutant:
    return instead("broker.dialogue:Suback", lambda packet_id, reasons: Suback(packet_id, change(reasons)))


def _unsubacks(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Mutant:
    return instead("broker.dialogue:Unsuback", lambda packet_id, reasons: Unsuback(packet_id, change(reasons)))


def _first_only(dialogue: Any, packet: Any) -> Any:
    if isinstance(packet, Subscribe):
        return replace(packet, requests=packet.requests[:1])
    return replace(packet, topic_filters=packet.topic_filters[:1])


def _not_replaced(subscribe: _Function) -> _Function:
    def changed(self: Any, session: Any, request: Any, *rest: Any) -> Any:
        return request.topic_filter not in session.subscriptions and subscribe(self, session, request, *rest)

    return changed


def _no_retained_again(dialogue: Any, packet: Any) -> Any:
    known = dialogue._session.subscriptions
    changed = (replace(r, retain_handling=2) if r.topic_filter in known else r for r in packet.requests)
    return replace(packet, requests=tuple(changed))


def _by_first_level(unsubscribe: _Function) -> _Function:
    def changed(self: Any, session: Any, topic_filter: str) -> Any:
        alike = [known for known in session.subscriptions if known.split("/")[0] == topic_filter.split("/")[0]]
        return [unsubscribe(self, session, known) for known in alike] != []

    return changed


def _only_answered(dialogue: Any, packet: Any) -> None:
    reasons = (0,) * len(packet.topic_filters) if dialogue._version == V5 else ()
    dialogue._answer(encode(Unsuback(packet.packet_id, reasons), dialogue._version))


def _answered_if_known(dialogue: Any, packet: Any) -> Any:
    return packet if set(packet.topic_filters) & set(dialogue._session.subscriptions) else None


def _delivery_dropped(dialogue: Any, packet: Any) -> None:
    if isinstance(packet, Unsubscribe):
        dialogue._session._in_flight.clear()


def _qos_of_message(self: Any, session: Any, delivery: Any) -> tuple[Any, ...]:
    delivery.qos = delivery.message.qos
    return self, session, delivery


# Topics and shares


def _matches(change: Callable[[_Function, Any, str], list[Any]]) -> Mutant:
    make = lambda match: lambda self, topic: change(match, self, topic)  # noqa: E731
    return around("broker.topic_filter:FilterTree.match", make)


def _everything(match: _Function, tree: Any, topic: str) -> list[Any]:
    found, nodes = [], [tree._root]
    for node in nodes:
        found.extend(node.values)
        nodes.extend(node.children.values())
    return found


def _dollar_too(match: _Function, tree: Any, topic: str) -> list[Any]:
    found: list[Any] = match(tree, topic)
    return found + (match(tree, topic[1:]) if topic.startswith("$") else [])


def _any_share(is_filter: _Function) -> _Function:
    return lambda name: is_filter(name) or (name.startswith("$share/") and name.count("/") > 1)


def _passed_on(forget: _Function) -> _Function:
    """What a session that ends had not completed is published once more."""

    def changed(self: Any, session: Any) -> None:
        left = [delivery.message for delivery in (*session._in_flight.values(), *session._waiting)]
        forget(self, session)
        for message in left:
            self.publish(message, None)

    return changed


def _tries_the_next(dialogue: Any, packet: Any) -> Any:
    delivery = dialogue._session._in_flight.get(packet.packet_id)
    if delivery and packet.reason >= 0x80:
        dialogue._router.publish(delivery.message, None)
    return packet


# WebSocket


async def _text_as_well(self: Any, socket: Any, transport: Any) -> None:
    while isinstance((message := await socket.receive()).data, bytes | str):
        if isinstance(message.data, bytes):
            await transport.feed(message.data)


def _whole_packets_only(feed: _Function) -> _Function:
    return lambda self, message: feed(self, message if len(message) > 1 else b"")


BREAKS: list[tuple[tuple[str, ...], Mutant]] = [
    # SUBSCRIBE
    (("3.1.1:MQTT-3.8.1-1", "5:MQTT-3.8.1-1"), any_flags(Kind.SUBSCRIBE, 2)),
    (("3.1.1:MQTT-3.8.3-1", "5:MQTT-3.8.3-1"), LENIENT_TEXT),
    (("3.1.1:MQTT-3.8.3-3", "5:MQTT-3.8.3-2"), excuses(Kind.SUBSCRIBE, Subscribe(1, ()))),
    (("3.1.1:MQTT-3.8.3-4",), _options(lambda options: min(options & 3, 2))),
    (("5:MQTT-3.8.3-5",), _options(lambda options: options & 0x0C)),
    (("5:MQTT-3.8.3-3", "5:MQTT-3.8.3-4"), requests(no_local=False)),
    (("3.1.1:MQTT-3.8.4-1", "5:MQTT-3.8.4-1"), silent(Kind.SUBACK)),
    (("3.1.1:MQTT-3.8.4-2", "5:MQTT-3.8.4-2", "3.1.1:MQTT-3.10.4-4"), OTHER_PACKET_ID),
    (("3.1.1:MQTT-3.8.4-3", "5:MQTT-3.8.4-3"), around("broker.router:Router.subscribe", _not_replaced)),
    (("5:MQTT-3.8.4-4",), handles(Subscribe, _no_retained_again)),
    (("3.1.1:MQTT-3.8.4-4", "5:MQTT-3.8.4-5"), handles(Subscribe, _first_only)),
    (("3.1.1:MQTT-3.8.4-5", "5:MQTT-3.8.4-6"), _subacks(lambda reasons: (*reasons, 0))),
    (("5:MQTT-3.8.4-7",), _subacks(lambda reasons: tuple(reason if reason > 2 else 0 for reason in reasons))),
    (
        ("3.1.1:MQTT-3.8.4-6", "5:MQTT-3.8.4-8", "5:MQTT-4.8.2-3"),
        given("broker.router:Router._deliver", _qos_of_message),
    ),
    (("3.1.1:MQTT-3.9.3-1", "5:MQTT-3.9.3-1"), _subacks(lambda reasons: reasons[::-1])),
    (("3.1.1:MQTT-3.9.3-2", "5:MQTT-3.9.3-2"), _subacks(lambda reasons: tuple(reason + 3 for reason in reasons))),
    # UNSUBSCRIBE
    (("3.1.1:MQTT-3.10.1-1", "5:MQTT-3.10.1-1"), any_flags(Kind.UNSUBSCRIBE, 2)),
    (("3.1.1:MQTT-3.10.3-1", "5:MQTT-3.10.3-1"), LENIENT_TEXT),
    (("3.1.1:MQTT-3.10.3-2", "5:MQTT-3.10.3-2"), excuses(Kind.UNSUBSCRIBE, Unsubscribe(1, ()))),
    (("3.1.1:MQTT-3.10.4-1", "5:MQTT-3.10.4-1"), around("broker.router:Router.unsubscribe", _by_first_level)),
    (("3.1.1:MQTT-3.10.4-2", "5:MQTT-3.10.4-2"), handles(Unsubscribe, _only_answered)),
    (("3.1.1:MQTT-3.10.4-3", "5:MQTT-3.10.4-3"), after("broker.dialogue:Dialogue.handle", _delivery_dropped)),
    (("5:MQTT-3.10.4-4",), silent(Kind.UNSUBACK)),
    (("3.1.1:MQTT-3.10.4-5", "5:MQTT-3.10.4-5"), handles(Unsubscribe, _answered_if_known)),
    (("3.1.1:MQTT-3.10.4-6", "5:MQTT-3.10.4-6"), handles(Unsubscribe, _first_only)),
    (("5:MQTT-3.11.3-1",), _unsubacks(lambda reasons: reasons[::-1])),
    (("5:MQTT-3.11.3-2",), _unsubacks(lambda reasons: tuple(reason + 1 for reason in reasons))),
    # Topics, filters, shares
    (("3.1.1:MQTT-3.3.2-3", "5:MQTT-3.3.2-3"), _matches(_everything)),
    (("3.1.1:MQTT-4.5.0-1", "5:MQTT-4.5.0-1"), _matches(lambda match, tree, topic: match(tree, topic)[:1])),
    (
        ("3.1.1:MQTT-4.7.1-2", "5:MQTT-4.7.1-1", "3.1.1:MQTT-4.7.1-3", "5:MQTT-4.7.1-2"),
        instead("broker.wanted:is_filter", lambda topic_filter: True),
    ),
    (("3.1.1:MQTT-4.7.2-1", "5:MQTT-4.7.2-1"), _matches(_dollar_too)),
    (("3.1.1:MQTT-4.7.3-4", "5:MQTT-4.7.3-4"), _matches(lambda match, tree, topic: match(tree, topic.lower()))),
    (("5:MQTT-4.8.2-1", "5:MQTT-4.8.2-2"), around("broker.wanted:is_filter", _any_share)),
    (("5:MQTT-4.8.2-4",), before("broker.session:Session.suspend", in_flight_lost)),
    (("5:MQTT-4.8.2-5",), around("broker.router:Router.forget", _passed_on)),
    (("5:MQTT-4.8.2-6",), all_of(handles(Puback, _tries_the_next), handles(Pubrec, _tries_the_next))),
    # WebSocket
    (("3.1.1:MQTT-6.0.0-1", "5:MQTT-6.0.0-1"), instead("broker.web:WebListener._receive", _text_as_well)),
    (
        ("3.1.1:MQTT-6.0.0-2", "5:MQTT-6.0.0-2"),
        around("broker.websocket:WebSocketTransport.feed", _whole_packets_only),
    ),
    (("3.1.1:MQTT-6.0.0-4", "5:MQTT-6.0.0-4"), instead("broker.web:SUBPROTOCOL", "other")),
]
"""Statements, and the break under which their test has to fail."""

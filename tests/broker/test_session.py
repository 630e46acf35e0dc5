"""What needs no socket: sessions, routing under byte caps, retained messages."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.application_message import Delivery, Message
from broker.counters import Totals
from broker.packets import Request
from broker.properties import Property
from broker.reasons import Reason
from broker.retained import Retained
from broker.router import Router
from broker.session import Session
from broker.topic_filter import FilterTree


def message(
    topic: str = "t", payload: bytes = b"", qos: int = 0, retain: bool = False, expiry: int | None = None
) -> Message:
    properties = {} if expiry is None else {Property.MESSAGE_EXPIRY: expiry}
    return Message.of(topic, payload, qos, retain, properties, now=0.0)


def delivery(qos: int = 1, payload: bytes = b"", expiry: int | None = None) -> Delivery:
    return Delivery(message(payload=payload, qos=qos, expiry=expiry), qos, False, ())


class Sink:
    """An outlet that notes what is asked of it."""

    def __init__(self) -> None:
        self.woken = 0
        self.ended: list[Reason] = []

    def wake(self) -> None:
        self.woken += 1

    def end(self, reason: Reason, text: str = "", *, will: bool = True) -> None:
        self.ended.append(reason)


def test_receive_maximum_holds_back_what_follows_until_it_is_acknowledged() -> None:
    session = Session("c", Totals())
    session.receive_maximum = 2
    for qos in (1, 1, 1, 0):
        session.enqueue(delivery(qos))
    first, second = session.next_delivery(0.0), session.next_delivery(0.0)
    assert first is not None
    assert second is not None
    assert session.next_delivery(0.0) is None
    assert session.acknowledge(first.packet_id)
    assert session.next_delivery(0.0) is not None
    after = session.next_delivery(0.0)
    assert after is not None
    assert after.qos == 0
    assert not session.acknowledge(first.packet_id)


def test_a_resumed_session_repeats_what_was_in_flight_with_its_id_and_dup() -> None:
    session = Session("c", Totals())
    for payload in (b"1", b"2", b"3"):
        session.enqueue(delivery(1, payload))
    session.enqueue(delivery(0))
    sent = [session.next_delivery(0.0) for _ in range(2)]
    session.suspend()
    again = [session.next_delivery(0.0) for _ in range(4)]
    assert [(d.message.payload, d.dup) for d in again[:3] if d] == [(b"1", True), (b"2", True), (b"3", False)]
    assert [d.packet_id for d in again[:2] if d] == [d.packet_id for d in sent if d]
    assert again[3] is None


def test_an_expired_message_is_passed_over_and_counted() -> None:
    session = Session("c", Totals())
    session.enqueue(delivery(1, expiry=5))
    session.enqueue(delivery(1, b"later"))
    passed = session.next_delivery(5.0)
    assert passed is not None
    assert passed.message.payload == b"later"
    assert session.totals.expired == 1


def test_a_message_that_was_sent_once_is_sent_again_even_when_it_has_expired() -> None:
    session = Session("c", Totals())
    session.enqueue(delivery(1, expiry=5))
    sent = session.next_delivery(0.0)
    session.suspend()
    assert session.next_delivery(6.0) is sent is not None
    assert session.totals.expired == 0


def test_a_released_id_counts_and_is_kept_until_it_is_complete() -> None:
    session = Session("c", Totals())
    session.receive_maximum = 1
    session.enqueue(delivery(2, b"first"))
    session.enqueue(delivery(2, b"second"))
    first = session.next_delivery(0.0)
    assert first is not None
    held = session.held_bytes
    assert session.release(first.packet_id)
    assert session.held_bytes == held - first.message.cost
    assert session.release(first.packet_id), "PUBREC came twice"
    assert session.next_delivery(0.0) is None
    session.suspend()
    assert list(session.released) == [first.packet_id]
    assert session.complete(first.packet_id)
    assert not session.complete(first.packet_id)
    second = session.next_delivery(0.0)
    assert second is not None
    assert (second.message.payload, second.dup) == (b"second", False)


def test_an_acknowledgement_of_the_other_qos_completes_nothing() -> None:
    session = Session("c", Totals())
    session.enqueue(delivery(1))
    session.enqueue(delivery(2))
    once, twice = session.next_delivery(0.0), session.next_delivery(0.0)
    assert once is not None
    assert twice is not None
    assert not session.acknowledge(twice.packet_id)
    assert not session.release(once.packet_id)
    assert not session.reject(once.packet_id)
    assert not session.complete(twice.packet_id)
    assert session.in_flight == 2
    assert session.acknowledge(once.packet_id)
    assert session.reject(twice.packet_id)
    assert (session.in_flight, session.held_bytes, list(session.released)) == (0, 0, [])


def test_ids_in_use_are_not_given_again_when_they_wrap_around() -> None:
    session = Session("c", Totals())
    used = []
    for qos in (1, 2):
        session.enqueue(delivery(qos))
        sent = session.next_delivery(0.0)
        assert sent is not None
        used.append(sent.packet_id)
    assert session.release(used[1])
    for _ in range(0xFFFF):
        session.enqueue(delivery(1))
        sent = session.next_delivery(0.0)
        assert sent is not None
        assert sent.packet_id not in (0, *used)
        assert session.acknowledge(sent.packet_id)


STEPS = ["enqueue 0", "enqueue 1", "enqueue 2", "next", "acknowledge", "reject", "release", "complete", "suspend"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_held_bytes_are_those_of_what_waits_and_what_is_in_flight(steps: list[str]) -> None:
    session = Session("c", Totals())
    session.receive_maximum = 3
    flying: dict[int, int] = {}  # QoS by packet id
    released: list[int] = []
    for step in steps:
        if step.startswith("enqueue"):
            session.enqueue(delivery(int(step[-1]), b"x" * 10))
        elif step == "next" and (sent := session.next_delivery(0.0)) and sent.qos:
            flying[sent.packet_id] = sent.qos
        elif step in ("acknowledge", "reject", "release"):
            packet_id = next(iter(flying), 0)
            fits = flying.get(packet_id) == (1 if step == "acknowledge" else 2)
            assert getattr(session, step)(packet_id) == fits
            if fits:
                del flying[packet_id]
                released += [packet_id] if step == "release" else []
        elif step == "complete" and released:
            assert session.complete(released.pop(0))
        elif step == "suspend":
            session.suspend()
            flying.clear()
        cost = delivery(1, b"x" * 10).message.cost
        assert session.held_bytes == cost * (session.waiting + session.in_flight)
        assert session.in_flight == len(flying)
        assert list(session.released) == released
        assert len(flying) + len(released) <= session.receive_maximum


def routed(queue_bytes: int, qos: int) -> tuple[Router, Session, Sink]:
    """A router with one connected subscriber of topic `t`."""
    totals = Totals()
    router, session, sink = Router(queue_bytes, 1 << 20, totals), Session("c", totals), Sink()
    session.outlet = sink
    router.subscribe(session, Request("t", qos), qos, 0)
    return router, session, sink


def test_over_the_cap_qos_0_is_dropped_and_counted() -> None:
    router, session, sink = routed(10_000, 0)
    for _ in range(10):
        router.publish(message(payload=bytes(4_000)), None)
    assert session.held_bytes <= 10_000
    assert session.totals.dropped == 8
    assert sink.ended == []


def test_over_the_cap_a_subscriber_of_qos_1_is_disconnected() -> None:
    router, _, sink = routed(10_000, 1)
    for _ in range(3):
        router.publish(message(payload=bytes(4_000), qos=1), None)
    assert sink.ended == [Reason.QUOTA_EXCEEDED]


def test_over_the_cap_an_absent_subscriber_keeps_what_it_had() -> None:
    router, session, _ = routed(10_000, 1)
    session.suspend()
    for number in range(5):
        router.publish(message(payload=bytes([number]) * 4_000, qos=1), None)
    assert session.totals.dropped == 3
    first = session.next_delivery(0.0)
    assert first is not None
    assert bytes(first.message.payload[:1]) == b"\0"


def test_one_message_above_the_cap_still_passes() -> None:
    router, session, _ = routed(1_024, 1)
    router.publish(message(payload=bytes(100_000), qos=1), None)
    assert session.waiting == 1


def test_overlapping_subscriptions_give_one_delivery_at_the_highest_qos() -> None:
    router, session, _ = routed(1 << 20, 0)
    router.subscribe(session, Request("+", 1), 1, 7)
    router.subscribe(session, Request("#", 0), 0, 9)
    assert router.publish(message(qos=1), None) is Reason.SUCCESS
    sent = session.next_delivery(0.0)
    assert sent is not None
    assert sent.qos == 1
    assert sorted(sent.subscription_ids) == [7, 9]
    assert session.next_delivery(0.0) is None


def test_unsubscribing_and_forgetting_leave_no_subscription_behind() -> None:
    router, session, _ = routed(1 << 20, 0)
    router.subscribe(session, Request("a/#", 0), 0, 0)
    assert router.publish(message("a/b"), None) is Reason.SUCCESS
    assert router.unsubscribe(session, "a/#")
    assert not router.unsubscribe(session, "a/#")
    assert router.publish(message("a/b"), None) is Reason.NO_MATCHING_SUBSCRIBERS
    router.forget(session)
    assert router.publish(message("t"), None) is Reason.NO_MATCHING_SUBSCRIBERS


def test_expired_messages_give_their_room_to_new_ones() -> None:
    now = 0.0
    totals = Totals()
    router, session = Router(1_200, 1_200, totals, lambda: now), Session("c", totals)
    router.subscribe(session, Request("t", 1), 1, 0)
    assert router.publish(message("kept", bytes(300), retain=True, expiry=5), None) < Reason.UNSPECIFIED
    for _ in range(2):
        router.publish(message("t", b"old", qos=1, expiry=5), None)
    router.publish(message("t", b"dropped", qos=1), None)
    assert router.publish(message("new", bytes(600), retain=True), None) is Reason.QUOTA_EXCEEDED
    assert totals.dropped == 2
    now = 5.0
    assert router.publish(message("new", bytes(600), retain=True), None) < Reason.UNSPECIFIED
    router.publish(message("t", b"fresh", qos=1), None)
    assert (totals.dropped, totals.expired, session.waiting) == (2, 2, 1)
    assert [m.topic for m in matching(router.retained, "#", now)] == ["new"]


def test_a_member_of_a_group_whose_messages_have_expired_takes_new_ones() -> None:
    now = 0.0
    totals = Totals()
    router, session = Router(600, 0, totals, lambda: now), Session("c", totals)
    router.subscribe(session, Request("$share/g/t", 1), 1, 0)
    router.publish(message("t", b"old", qos=1, expiry=5), None)
    now = 5.0
    router.publish(message("t", b"fresh", qos=1), None)
    assert (totals.dropped, totals.expired, session.waiting) == (0, 1, 1)


def test_what_expires_is_looked_for_once_a_second() -> None:
    session = Session("c", Totals())
    for expiry in (1, 2, 3):
        session.enqueue(delivery(1, expiry=expiry))
    for now, left in ((0.9, 3), (1.5, 2), (2.4, 2), (2.5, 1), (9.0, 0)):
        session.sweep(now)
        assert (session.waiting, session.totals.expired) == (left, 3 - left)
    assert session.held_bytes == 0


def test_a_message_that_was_sent_is_not_swept_away() -> None:
    session = Session("c", Totals())
    session.enqueue(delivery(1, expiry=1))
    assert session.next_delivery(0.0) is not None
    session.suspend()
    session.sweep(9.0)
    assert session.waiting == 1


def test_routes_are_remembered_within_bounds() -> None:
    router, session, _ = routed(1 << 20, 0)
    for number in range(100):
        router.publish(message(f"nobody/{number}"), None)
    assert not router._cache
    router.subscribe(session, Request("#", 0), 0, 0)
    router.publish(message("x" * 60_000), None)
    assert not router._cache
    for number in range(10_000):
        router.publish(message(f"t/{number}"), None)
    assert 0 < len(router._cache) <= 4_096
    for number in range(1_000):
        router.subscribe(Session(f"c{number}", session.totals), Request("#", 0), 0, 0)
    for number in range(100):
        router.publish(message(f"t/{number}"), None)
    assert 0 < sum(len(route.targets) for route in router._cache.values()) <= 1 << 16


def test_many_subscribers_of_one_filter_leave_as_fast_as_few() -> None:
    values = [Session(str(number), Totals()) for number in range(20_000)]
    tree: FilterTree[Session] = FilterTree()
    for value in values:
        tree.add("t", value)
    with mock.patch.object(Session, "__eq__", side_effect=AssertionError("compared"), create=True):
        for value in reversed(values):
            tree.remove("t", value)
    assert tree.match("t") == []


def matching(retained: Retained, topic_filter: str, now: float) -> list[Message]:
    """The messages under a filter in one page."""
    messages, following, _ = retained.page(topic_filter, now, "", 100)
    assert following is None
    return messages


def test_retained_messages_are_replaced_removed_expired_and_capped() -> None:
    retained = Retained(cap=4_000)
    assert retained.keep(message("a/1", b"old"))
    assert retained.keep(message("a/1", b"new"))
    assert retained.keep(message("a/2", b"x", expiry=5))
    assert retained.keep(message("$SYS/a", b"x"))
    assert [m.payload for m in matching(retained, "a/1", 0.0)] == [b"new"]
    assert [m.topic for m in matching(retained, "#", 0.0)] == ["a/1", "a/2"]
    assert [m.topic for m in matching(retained, "a/+", 6.0)] == ["a/1"]
    assert not retained.keep(message("b", bytes(4_000)))
    assert retained.keep(message("a/1"))
    assert retained.keep(message("$SYS/a"))
    assert (len(retained), retained.held_bytes) == (0, 0)

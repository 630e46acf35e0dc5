"""Shared subscriptions: each message of a group goes to one of its members."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from broker.application_message import Message
from broker.counters import Totals
from broker.packets import V5, Pingreq, Pingresp, Puback, Publish, Request, Subscribe, Unsuback, Unsubscribe
from broker.properties import Property
from broker.reasons import Reason
from broker.router import Router
from broker.session import Session
from broker.topic_filter import is_filter, unshared
from tests.broker.raw import RawClient, connected, publish
from tests.broker.serving import VERSIONS, kept, reasons, serving
from tests.broker.siege import memory_below


async def received(client: RawClient) -> list[bytes]:
    """The payloads that have come for a client so far."""
    await client.send(Pingreq())
    payloads = []
    while isinstance(packet := await client.receive(), Publish):
        payloads.append(bytes(packet.payload))
        if packet.qos:
            await client.send(Puback(packet.packet_id))
    assert packet == Pingresp()
    return payloads


async def publish_numbers(publisher: RawClient, count: int) -> None:
    for number in range(count):
        await publisher.send(publish("t", bytes([number]), qos=1))
        await publisher.expect(Puback)


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1])
def test_connected_members_take_turns(version: int, qos: int) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(serving())
            members = [
                await stack.enter_async_context(connected(broker.address, name, version)) for name in ("a", "b", "c")
            ]
            for member in members:
                assert (await member.subscribe("$share/g/+", qos)).reasons == (qos,)
            publisher = await stack.enter_async_context(connected(broker.address, "p"))
            await publish_numbers(publisher, 9)
            shares = [await received(member) for member in members]
            assert shares == [[b"\0", b"\3", b"\6"], [b"\1", b"\4", b"\7"], [b"\2", b"\5", b"\x08"]]

    asyncio.run(scenario())


def test_groups_and_ordinary_subscriptions_each_get_their_copy() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as both:
            for number, topic_filter in enumerate(("$share/g/t", "$share/h/t", "$share/g/+", "t"), start=1):
                request = Subscribe(1, (Request(topic_filter),), {Property.SUBSCRIPTION_ID: (number,)})
                await both.send(request)
                await both.receive()
            await both.send(publish("t", b"x"))
            got = [await both.expect(Publish) for _ in range(4)]
            assert sorted(p.properties[Property.SUBSCRIPTION_ID] for p in got) == [(1,), (2,), (3,), (4,)]
            assert await received(both) == []

    asyncio.run(scenario())


@VERSIONS
def test_unsubscribing_by_the_full_name_leaves_the_group(version: int) -> None:
    async def scenario() -> None:
        async with (
            serving() as broker,
            connected(broker.address, "a", version) as leaving,
            connected(broker.address, "b", version) as staying,
        ):
            for member in (leaving, staying):
                await member.subscribe("$share/g/t", 1)
            await leaving.send(Unsubscribe(2, ("t",)), Unsubscribe(3, ("$share/g/t",)))
            wrong, right = await leaving.expect(Unsuback), await leaving.expect(Unsuback)
            if version == V5:
                assert (wrong.reasons, right.reasons) == ((Reason.NO_SUBSCRIPTION_EXISTED,), (0,))
            async with connected(broker.address, "p") as publisher:
                await publish_numbers(publisher, 4)
            assert await received(leaving) == []
            assert len(await received(staying)) == 4

    asyncio.run(scenario())


def test_retained_messages_are_not_sent_to_a_new_member() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as both:
            await both.send(publish("t", b"kept", retain=True))
            await both.subscribe("$share/g/t")
            assert await received(both) == []

    asyncio.run(scenario())


def test_no_local_with_a_shared_subscription_is_a_protocol_error() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as client:
            await client.send(Subscribe(1, (Request("$share/g/t", no_local=True),)))
            assert reasons(await client.ended()) == [Reason.PROTOCOL_ERROR]

    asyncio.run(scenario())


def test_messages_wait_for_an_absent_member_only_where_nobody_is_connected() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "p") as publisher:
            async with connected(broker.address, "away", **kept(V5)) as away:
                await away.subscribe("$share/g/t", 1)
                away.abort()
            async with connected(broker.address, "here", **kept(V5)) as here:
                await here.subscribe("$share/g/t", 1)
                await publish_numbers(publisher, 3)
                assert await received(here) == [b"\0", b"\1", b"\2"]
                await here.send(Unsubscribe(2, ("$share/g/t",)))
                await here.expect(Unsuback)
            await publish_numbers(publisher, 2)
            async with connected(broker.address, "away", **kept(V5)) as back:
                assert await received(back) == [b"\0", b"\1"]

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["$share/g", "$share//t", "$share/g/", "$share/g+/t", "$share/#/t", "$share/+/t"])
def test_names_that_are_no_shared_subscriptions_are_refused(name: str) -> None:
    assert not is_filter(name)


def test_the_filter_of_a_shared_subscription_is_what_follows_the_group() -> None:
    assert is_filter("$share/g/+/x/#")
    assert unshared("$share/g/+/x/#") == "+/x/#"
    assert is_filter("$share/g//")
    assert unshared("$share/g//") == "/"
    assert unshared("$shared/g") == "$shared/g"


# What needs no socket


class Open:
    """An outlet that notes its end."""

    def __init__(self) -> None:
        self.ended = False

    def wake(self) -> None:
        pass

    def end(self, reason: Reason, text: str = "", *, will: bool = True) -> None:
        self.ended = True


def group(*names: str, queue_bytes: int = 10_000) -> tuple[Router, list[Session]]:
    """A router and the connected members of one group on topic `t`, QoS 1."""
    totals = Totals()
    router, sessions = Router(queue_bytes, 0, totals), [Session(name, totals) for name in names]
    for session in sessions:
        session.outlet = Open()
        router.subscribe(session, Request("$share/g/t", 1), 1, 0)
    return router, sessions


def shared_message(qos: int = 1, size: int = 4_000) -> Message:
    return Message.of("t", bytes(size), qos, False, {}, 0.0)


def test_a_member_without_room_is_passed_over_until_all_are_full() -> None:
    router, (full, free) = group("full", "free")
    router.publish(shared_message(), None)
    for _ in range(3):
        router.publish(shared_message(size=4_000), None)
    assert (full.waiting, free.waiting) == (2, 2)
    free.next_delivery(0.0)
    free.acknowledge(1)
    router.publish(shared_message(), None)
    assert (full.waiting, free.waiting) == (2, 2)
    router.publish(shared_message(), None)
    assert [session.outlet.ended for session in (full, free)].count(True) == 1  # type: ignore[union-attr]


def test_the_next_member_is_found_without_a_look_at_all_of_them() -> None:
    router, _ = group(*map(str, range(20_000)))
    message = shared_message()
    router.publish(message, None)
    with memory_below(20_000):
        router.publish(message, None)


def test_a_message_that_no_member_can_take_is_counted() -> None:
    router, (one, two) = group("one", "two")
    one.suspend()
    two.suspend()
    router.publish(shared_message(qos=0), None)
    assert (one.waiting, two.waiting, one.totals.dropped) == (0, 0, 0)
    for _ in range(6):
        router.publish(shared_message(), None)
    assert (one.waiting, two.waiting, one.totals.dropped) == (2, 2, 2)


def test_turns_go_on_where_a_member_leaves_and_an_empty_group_leaves_nothing() -> None:
    router, (a, b, c) = group("a", "b", "c")
    router.publish(shared_message(size=0), None)
    router.publish(shared_message(size=0), None)
    router.forget(a)
    router.publish(shared_message(size=0), None)
    router.publish(shared_message(size=0), None)
    assert (a.waiting, b.waiting, c.waiting) == (1, 2, 1)
    router.forget(b)
    router.forget(c)
    assert router.publish(shared_message(), None) is Reason.NO_MATCHING_SUBSCRIBERS
    assert router._groups == {}
    assert router._tree._root.children == {}


def test_joining_a_group_again_changes_its_options_and_not_its_size() -> None:
    router, (only,) = group("only")
    assert not router.subscribe(only, Request("$share/g/t", 0), 0, 5)
    router.publish(shared_message(), None)
    delivery = only.next_delivery(0.0)
    assert delivery is not None
    assert (delivery.qos, delivery.subscription_ids) == (0, (5,))
    assert only.next_delivery(0.0) is None

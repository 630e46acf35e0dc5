"""Retained messages for new subscriptions: however many there are, nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from broker.application_message import Message
from broker.counters import Totals
from broker.packets import Pingreq, Pingresp, Puback, Publish, Request, Suback, Subscribe, Unsuback, Unsubscribe
from broker.properties import NO_PROPERTIES, Property
from broker.reasons import Reason
from broker.replays import MOST_WAITING, PAGE_LOOKS, TURN_LOOKS
from broker.retained import Retained
from broker.router import Router
from broker.session import Session
from tests.broker.raw import RawClient, connected, publish
from tests.broker.serving import VERSIONS, kept, reasons, serving
from tests.broker.test_session import Sink

MANY = 3 * MOST_WAITING


class Scene:
    """A router with retained messages, and a client that has not read anything yet."""

    def __init__(self, count: int, queue_bytes: int = 1 << 26, qos: int = 0, size: int = 1) -> None:
        totals = Totals()
        self.router = Router(queue_bytes, 1 << 26, totals)
        self.session, self.sink = Session("c", totals), Sink()
        self.session.outlet = self.sink
        self.now = 0.0
        for number in range(count):
            self.publish(f"t/{number:05}", b"x" * size, qos)

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = True) -> None:
        self.router.publish(Message(topic, payload, qos, retain, NO_PROPERTIES, None), None)

    def subscribe(self, topic_filter: str, qos: int = 0, replayed: bool = True) -> None:
        self.router.subscribe(self.session, Request(topic_filter), qos, 0)
        if replayed:
            self.router.send_retained(self.session, topic_filter)

    async def read(self, most: int = 1 << 20) -> list[tuple[str, bytes, bool]]:
        """Take what comes until the loop has nothing left to do for the client, as (topic, payload, retain)."""
        taken: list[tuple[str, bytes, bool]] = []
        idle = 0
        while idle < 5 + MANY // PAGE_LOOKS and len(taken) < most:
            idle += 1
            while len(taken) < most and (delivery := self.session.next_delivery(0.0)) is not None:
                message, idle = delivery.message, 0
                taken.append((message.topic, bytes(message.payload), delivery.retain))
                if delivery.qos:
                    assert self.session.acknowledge(delivery.packet_id)
            await asyncio.sleep(0)
        return taken


def play(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def topics(taken: list[tuple[str, bytes, bool]]) -> list[str]:
    return [topic for topic, _, _ in taken]


@pytest.mark.parametrize("topic_filter", ["#", "t/+"])
def test_all_messages_come_once_and_few_of_them_wait_at_a_time(topic_filter: str) -> None:
    async def scenario() -> None:
        scene = Scene(MANY)
        scene.subscribe(topic_filter)
        for _ in range(20):
            await asyncio.sleep(0)
        assert scene.session.waiting <= MOST_WAITING
        assert topics(await scene.read()) == [f"t/{number:05}" for number in range(MANY)]
        assert scene.session.when_idle is None

    play(scenario())


def test_what_fits_a_turn_is_there_before_anything_else() -> None:
    async def scenario() -> None:
        scene = Scene(TURN_LOOKS - 1)
        scene.subscribe("#")
        assert scene.session.waiting == TURN_LOOKS - 1

    play(scenario())


def test_a_message_that_is_replaced_meanwhile_comes_once_and_is_the_new_one() -> None:
    async def scenario() -> None:
        scene = Scene(MANY)
        last = f"t/{MANY - 1:05}"
        scene.subscribe("#")
        scene.publish(last, b"new")
        scene.publish("t/99999", b"another")
        taken = await scene.read()
        assert [message for message in taken if message[0] == last] == [(last, b"new", False)]
        assert [message for message in taken if message[0] == "t/99999"] == [("t/99999", b"another", False)]
        assert len(taken) == MANY + 1

    play(scenario())


def test_nothing_more_comes_after_unsubscribing() -> None:
    async def scenario() -> None:
        scene = Scene(MANY)
        scene.subscribe("#")
        waiting = scene.session.waiting
        assert scene.router.unsubscribe(scene.session, "#")
        scene.subscribe("#", replayed=False)
        assert len(await scene.read()) == waiting < MANY

    play(scenario())


def test_a_subscription_that_is_replaced_brings_the_rest_all_the_same() -> None:
    async def scenario() -> None:
        scene = Scene(MANY, qos=1)
        scene.subscribe("#", qos=0)
        scene.subscribe("#", qos=1, replayed=False)
        assert len(await scene.read()) == MANY

    play(scenario())


@pytest.mark.parametrize("qos", [0, 1])
def test_what_a_slow_client_cannot_take_waits_on_the_shelf(qos: int) -> None:
    async def scenario() -> None:
        scene = Scene(40, queue_bytes=200_000, qos=qos, size=20_000)
        scene.subscribe("#", qos)
        await asyncio.sleep(0)
        assert scene.session.held_bytes <= 100_000
        scene.publish("live", bytes(20_000), qos=1, retain=False)
        assert sorted(topics(await scene.read())) == ["live", *(f"t/{number:05}" for number in range(40))]
        assert (scene.sink.ended, scene.session.totals.dropped) == ([], 0)

    play(scenario())


def test_a_session_that_goes_away_and_comes_back_gets_the_rest() -> None:
    async def scenario() -> None:
        scene = Scene(MANY, qos=1)
        scene.subscribe("#", qos=1)
        first = await scene.read(most=10)
        scene.session.suspend()
        for _ in range(5):
            await asyncio.sleep(0)
        scene.session.outlet = scene.sink
        assert topics(first + await scene.read()) == [f"t/{number:05}" for number in range(MANY)]

    play(scenario())


def test_nothing_is_read_from_the_shelf_for_nobody() -> None:
    async def scenario() -> None:
        scene = Scene(MANY)
        scene.subscribe("+/+/none")
        scene.subscribe("#")
        scene.session.suspend()
        for _ in range(MANY // PAGE_LOOKS):
            await asyncio.sleep(0)
        scene.session.outlet = scene.sink
        assert len(await scene.read()) == MANY

    play(scenario())


def test_a_session_that_ends_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        scene = Scene(MANY)
        for topic_filter in ("#", "t/+", "t/#"):
            scene.subscribe(topic_filter)
        scene.router.forget(scene.session)
        await asyncio.sleep(0)
        replays = scene.router._replays
        assert (replays._pending, replays._line, scene.session.when_idle) == ({}, {}, None)

    play(scenario())


def test_a_client_that_ends_at_the_answer_to_its_subscription_leaves_nothing_behind() -> None:
    requests = tuple(Request(f"t/{number}") for number in range(50))

    async def scenario() -> None:
        async with serving() as broker:
            limit = {Property.MAXIMUM_PACKET_SIZE: 40}  # which SUBACK exceeds
            async with connected(broker.address, "c", properties=limit) as client:
                await client.send(Subscribe(1, requests))
                assert reasons(await client.ended()) == [Reason.PACKET_TOO_LARGE]
            replays = broker._registry.router._replays
            assert (broker._registry.sessions, replays._pending, replays._line) == ({}, {}, {})

    asyncio.run(scenario())


async def fill(client: RawClient, count: int) -> None:
    """Retain messages under many topics."""
    for start in range(0, count, 1_000):
        await client.send(*(publish(f"r/{number}/x", b"p", retain=True) for number in range(start, start + 1_000)))
        await client.send(Pingreq())
        assert await client.receive() == Pingresp()


def test_wildcards_over_many_retained_messages_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    topics, filters = 10_000, 300
    taken: list[int] = []
    page = Retained.page

    def counted(*args: Any) -> Any:
        result = page(*args)
        taken.append(result[2])
        return result

    async def scenario() -> None:
        async with (
            serving(sys_interval_s=0) as broker,
            connected(broker.address, "attacker") as attacker,
            connected(broker.address, "other") as other,
        ):
            await fill(attacker, topics)
            monkeypatch.setattr(Retained, "page", counted)
            # Each of them looks at every topic and finds none.
            await attacker.send(Subscribe(1, tuple(Request(f"r/+/{number}") for number in range(filters))))
            await attacker.expect(Suback)
            for _ in range(10):
                before = sum(taken)
                await other.send(Pingreq())
                assert await other.receive() == Pingresp()
                assert sum(taken) - before <= 20 * TURN_LOOKS
            assert sum(taken) < topics * filters / 2, "the replays ended before they were measured"

    asyncio.run(scenario())


@VERSIONS
def test_a_client_that_reads_on_gets_them_all(version: int) -> None:
    count = 4_000

    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c", version, **kept(version)) as client:
            await fill(client, count)
            await client.send(Subscribe(1, (Request("r/+/x", 1),)))
            await client.expect(Suback)
            came = {(await client.expect(Publish)).topic for _ in range(count)}
            assert came == {f"r/{number}/x" for number in range(count)}
            await client.send(Unsubscribe(2, ("r/+/x",)))
            await client.expect(Unsuback)

    asyncio.run(scenario())


def test_messages_that_wait_for_acknowledgements_go_on_with_them() -> None:
    count = 2_000

    async def scenario() -> None:
        async with serving(max_inflight=3) as broker, connected(broker.address, "c") as client:
            for start in range(0, count, 500):
                many = (publish(f"t/{number}", b"p", retain=True, qos=1) for number in range(start, start + 500))
                await client.send(*many)
                for _ in range(500):
                    await client.expect(Puback)
            await client.subscribe("t/#", 1)
            for _ in range(count):
                await client.send(Puback((await client.expect(Publish)).packet_id))

    asyncio.run(scenario())

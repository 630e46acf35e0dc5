"""Wills, and the keepalive that finds out who is dead."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from broker.packet_encoder import encode
from broker.packets import (
    V5,
    Disconnect,
    Puback,
    Publish,
    Will,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import connected, publish
from tests.broker.serving import FOREVER, VERSIONS, reasons, serving


@VERSIONS
@pytest.mark.parametrize("manner", ["vanish", "disconnect", "disconnect with will"])
def test_the_will_is_sent_unless_the_client_says_goodbye(version: int, manner: str) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills/#", 1)
            will = Will("wills/c", b"gone", 1, retain=True)
            async with connected(broker.address, "c", version, will=will) as leaving:
                if manner == "vanish":
                    leaving.abort()
                else:
                    await leaving.send(Disconnect(4 if manner == "disconnect with will" else 0))
                    assert await leaving.ended() == []
            async with connected(broker.address, "p") as publisher:
                await publisher.send(publish("wills/end"))
            topics = [(await watch.expect(Publish)).topic]
            if topics == ["wills/c"]:
                topics.append((await watch.expect(Publish)).topic)
            sent = manner == "vanish" or (manner == "disconnect with will" and version == V5)
            assert topics == (["wills/c"] if sent else []) + ["wills/end"]

    asyncio.run(scenario())


def test_a_session_ends_when_its_time_is_up_and_sends_its_will_then() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills")
            will = Will("wills", b"late", properties={Property.WILL_DELAY: 3600})
            async with connected(broker.address, "c", properties={Property.SESSION_EXPIRY: 1}, will=will) as away:
                await away.subscribe("t", 1)
                away.abort()
            assert (await watch.expect(Publish)).payload == b"late"
            async with connected(broker.address, "c", clean_start=False) as back:
                assert not back.connack.session_present

    asyncio.run(scenario())


def test_a_client_that_is_back_in_time_takes_its_delayed_will_back() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills")
            will = Will("wills", b"delayed", properties={Property.WILL_DELAY: 3600})
            async with connected(broker.address, "c", properties=FOREVER, will=will) as first:
                first.abort()
            now = Will("wills", b"now")
            async with connected(broker.address, "c", properties=FOREVER, clean_start=False, will=now) as second:
                second.abort()
            assert (await watch.expect(Publish)).payload == b"now"

    asyncio.run(scenario())


def test_a_silent_client_is_dead_and_one_whose_large_packet_progresses_is_not() -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(serving())
            watch = await stack.enter_async_context(connected(broker.address, "watch"))
            await watch.subscribe("wills/+")
            slow = await stack.enter_async_context(
                connected(broker.address, "slow", keepalive=1, will=Will("wills/slow"))
            )
            packet = encode(publish("t", bytes(100_000), qos=1), V5)
            await slow.send_bytes(packet[:50_000])
            silent = await stack.enter_async_context(
                connected(broker.address, "silent", keepalive=1, will=Will("wills/silent"))
            )
            death = asyncio.create_task(watch.expect(Publish))
            at = 50_000
            while not death.done():
                await slow.send_bytes(packet[at : at + 1])
                at += 1
                await asyncio.wait([death], timeout=0.2)
            assert (await death).topic == "wills/silent"
            assert reasons(await silent.ended()) == [Reason.KEEPALIVE_TIMEOUT]
            await slow.send_bytes(packet[at:])
            assert (await slow.expect(Puback)).packet_id == 1
            assert broker.snapshot()["totals"]["ended"] == {"keepalive_timeout": 1}

    asyncio.run(scenario())


def test_mqtt_5_clients_are_held_to_the_keepalive_of_the_broker() -> None:
    async def scenario() -> None:
        async with serving(max_keepalive_s=1) as broker, connected(broker.address, "c", keepalive=600) as silent:
            assert silent.connack.properties[Property.SERVER_KEEPALIVE] == 1
            assert reasons(await silent.ended()) == [Reason.KEEPALIVE_TIMEOUT]

    asyncio.run(scenario())


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("delay", [0, 3600])
def test_a_take_over_sends_the_will_unless_the_session_goes_on_and_the_will_can_wait(clean: bool, delay: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills/#")
            will = Will("wills/c", properties={Property.WILL_DELAY: delay})
            async with (
                connected(broker.address, "c", properties=FOREVER, will=will) as old,
                connected(broker.address, "c", properties=FOREVER, clean_start=clean) as new,
            ):
                assert reasons(await old.ended()) == [Reason.SESSION_TAKEN_OVER]
                await new.send(publish("wills/end"))
                topics = [(await watch.expect(Publish)).topic]
                while topics[-1] != "wills/end":
                    topics.append((await watch.expect(Publish)).topic)
                assert topics == (["wills/end"] if delay and not clean else ["wills/c", "wills/end"])

    asyncio.run(scenario())


def test_a_will_waits_for_its_delay_and_its_expiry_begins_after_that() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills")
            will = Will("wills", properties={Property.WILL_DELAY: 1, Property.MESSAGE_EXPIRY: 100})
            async with connected(broker.address, "c", properties=FOREVER, will=will) as leaving:
                left = asyncio.get_running_loop().time()
                leaving.abort()
            assert (await watch.expect(Publish)).properties == {Property.MESSAGE_EXPIRY: 100}
            assert asyncio.get_running_loop().time() - left >= 1

    asyncio.run(scenario())


def test_a_will_comes_with_the_end_of_a_session_that_ends_on_leaving() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills")
            will = Will("wills", properties={Property.WILL_DELAY: 3600})
            async with connected(broker.address, "c", properties=FOREVER, will=will) as leaving:
                await leaving.send(Disconnect(Reason.DISCONNECT_WITH_WILL, {Property.SESSION_EXPIRY: 0}))
                assert await leaving.ended() == []
            assert (await watch.expect(Publish)).topic == "wills"

    asyncio.run(scenario())

"""The broker's topics under $SYS: what they say, when, and to whom."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from broker.counters import ConnectionCount, Totals
from broker.packets import V5, Disconnect, Publish
from broker.properties import Property
from broker.statistics import Statistics
from broker.sys_topics import ROOT, SysTopics
from tests.broker.planes import BrokerProcess
from tests.broker.raw import PATIENCE_S, RawClient, connected, publish, until
from tests.broker.serving import serving

QUIET = Statistics(
    uptime_s=0.0,
    open_connections=0,
    connected=0,
    disconnected=0,
    subscriptions=0,
    waiting=0,
    unacknowledged=0,
    queued_bytes=0,
    retained_messages=0,
    retained_bytes=0,
    traffic=ConnectionCount(),
    totals=Totals(),
)


def topics() -> tuple[SysTopics, dict[str, str]]:
    """Topics, and what they published, by the rest of the name; the test empties it."""
    said: dict[str, str] = {}
    return SysTopics(lambda topic, payload: said.update({topic.removeprefix(ROOT): payload.decode()})), said


async def values(client: RawClient, last: str) -> dict[str, str]:
    """The values that come until the one that is last."""
    found: dict[str, str] = {}
    while last not in found:
        packet = await client.expect(Publish)
        found[packet.topic.removeprefix(ROOT)] = bytes(packet.payload).decode()
    return found


def test_only_what_has_changed_is_published_again() -> None:
    system, said = topics()
    system.update(QUIET)
    assert said["clients/connected"] == "0"
    assert said["uptime"] == "0 seconds"
    said.clear()
    system.update(QUIET)
    assert said == {}
    system.update(replace(QUIET, uptime_s=10.0, connected=2, disconnected=3))
    assert said == {
        "uptime": "10 seconds",
        "clients/connected": "2",
        "clients/disconnected": "3",
        "clients/total": "5",
    }


def test_loads_are_averages_per_minute_that_rise_and_fade() -> None:
    system, said = topics()
    system.update(QUIET)
    system.update(replace(QUIET, uptime_s=10.0, traffic=ConnectionCount(publishes_in=60)))
    # 360 a minute, seen for a sixth of a minute: 360 * (1 - exp(-1/6)), and so on.
    assert said["load/publish/received/1min"] == "55.27"
    assert said["load/publish/received/5min"] == "11.80"
    assert said["load/publish/received/15min"] == "3.98"
    system.update(replace(QUIET, uptime_s=70.0, traffic=ConnectionCount(publishes_in=60)))
    assert said["load/publish/received/1min"] == "20.33"  # a minute later, 1/e of it


def test_a_subscriber_gets_all_values_and_then_those_that_change() -> None:
    async def scenario() -> None:
        async with serving(sys_interval_s=0.05) as broker, connected(broker.address, "a") as watch:
            await watch.subscribe(ROOT + "#")
            first = await values(watch, "version")
            assert first["version"].startswith("splitcom broker ")
            assert "load/bytes/sent/15min" in first
            async with connected(broker.address, "b") as other:
                await other.send(publish("t", b"x"), publish("t", b"y"))
                while (await watch.expect(Publish)).topic != ROOT + "publish/messages/received":
                    pass
            await values(watch, "clients/connected")

    asyncio.run(scenario())


def test_values_are_those_of_the_broker() -> None:
    async def scenario() -> None:
        async with serving(sys_interval_s=0) as broker, connected(broker.address, "a") as client:
            await client.subscribe("t/#", 1)
            await client.send(publish("t/1", b"kept", retain=True), publish("t/2"))
            assert [(await client.expect(Publish)).topic for _ in range(2)] == ["t/1", "t/2"]
            await client.send(Disconnect())
            assert await client.ended() == []
            kept = {Property.SESSION_EXPIRY: 100}
            async with connected(broker.address, "b", properties=kept) as leaving:
                await leaving.subscribe("u", 1)
            await until(lambda: broker.statistics().connected == 0)
            broker.publish("u", b"waits", qos=1)
            system, said = topics()
            system.update(broker.statistics())
        count = broker.snapshot()["traffic"]
        assert {name: value for name, value in said.items() if not name.startswith(("load", "uptime", "version"))} == {
            "clients/connected": "0",
            "clients/disconnected": "1",
            "clients/total": "1",
            "clients/maximum": "1",
            "clients/expired": "0",
            "messages/received": "7",  # CONNECT, SUBSCRIBE, two PUBLISH and DISCONNECT; CONNECT and SUBSCRIBE
            "messages/sent": "6",
            "messages/stored": "2",
            "publish/messages/received": "2",
            "publish/messages/sent": "2",
            "publish/messages/dropped": "0",
            "bytes/received": str(count["bytes_in"]),
            "bytes/sent": str(count["bytes_out"]),
            "retained messages/count": "1",
            "subscriptions/count": "1",
        }

    asyncio.run(scenario())


def test_sessions_that_expire_and_the_most_clients_at_once_are_counted() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            async with AsyncExitStack() as stack:
                for name in ("a", "b", "a"):  # the last one takes the first one over
                    await stack.enter_async_context(connected(broker.address, name))
            async with connected(broker.address, "c", properties={Property.SESSION_EXPIRY: 1}):
                pass
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: broker.snapshot()["sessions"] == 0)
            totals = broker.snapshot()["totals"]
            assert (totals["most_connected"], totals["sessions_expired"]) == (2, 1)
            assert broker.statistics().connected == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("topic_filter", ["#", "+/broker/#", "+/#"])
def test_wildcards_in_the_first_level_do_not_match_them(topic_filter: str) -> None:
    async def scenario() -> None:
        async with serving(sys_interval_s=0.05) as broker, connected(broker.address, "a") as client:
            await client.subscribe(topic_filter)
            published = broker._sys_topics._published
            before = published["uptime"], published["messages/received"]
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: (published["uptime"], published["messages/received"]) != before)
            broker.publish("x/broker/x", b"sentinel")
            assert (await client.expect(Publish)).payload == b"sentinel"

    asyncio.run(scenario())


def test_they_take_no_room_from_retained_messages_of_clients() -> None:
    async def scenario() -> None:
        async with serving(retained_bytes=0) as broker, connected(broker.address, "a") as client:
            await client.subscribe(ROOT + "uptime")
            packet = await client.expect(Publish)
            assert (packet.payload, packet.retain) == (b"0 seconds", True)
            assert broker.snapshot()["retained"] == {"messages": 0, "bytes": 0}
            assert broker.snapshot()["totals"]["dropped"] == 0

    asyncio.run(scenario())


def test_an_interval_of_0_publishes_none() -> None:
    async def scenario() -> None:
        async with serving(sys_interval_s=0) as broker, connected(broker.address, "a") as client:
            await client.subscribe("$SYS/#")
            broker.publish("$SYS/sentinel", b"")
            assert (await client.expect(Publish)).topic == "$SYS/sentinel"

    asyncio.run(scenario())


class Talkative(BrokerProcess):
    """A mosquitto that says every second what it counts."""

    def _command(self) -> list[str]:
        command = super()._command()
        with open(command[-1], "a") as settings:
            settings.write("sys_interval 1\n")
        return command


def test_mosquitto_has_every_name() -> None:
    system, said = topics()
    system.update(QUIET)
    ours = set(said)

    async def scenario(port: int) -> None:
        async with connected(("127.0.0.1", port), "a", V5) as client:
            await client.subscribe(ROOT + "#")
            missing = ours
            while missing:
                missing = missing - {(await client.expect(Publish)).topic.removeprefix(ROOT)}

    with Talkative("mosquitto") as mosquitto:
        asyncio.run(scenario(mosquitto.port))

"""What ends of a channel make of each other: hostile words, many agents, peers that come and go."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, cast
from unittest import mock

import msgpack
import pytest

from broker import wire
from broker.arrivals import Arrivals
from broker.channel import Channel, ChannelConfig, Malformed
from broker.client import MqttChannel
from broker.credit import UNCONFIRMED_BYTES, share
from broker.endpoint import Endpoint
from broker.errors import BrokerError
from broker.memory import MemoryHub
from broker.messages import ActivationUp, DownHeld, End, Failure, GradientDown, State
from broker.mqtt_connection import MqttConnection
from broker.outgoing import Chunk
from broker.server import Broker, BrokerConfig
from tests.broker.planes import HELLO, PLANES, RUN, Join, chunks, next_of, play
from tests.broker.raw import until

MIB = 1 << 20
CONFIG = ChannelConfig(timeout_s=40.0)
SMALL = ChannelConfig(timeout_s=40.0, max_message_bytes=1 << 16)


def say(channel: Channel, kind: type, values: list[Any]) -> None:
    """Publish a body that no encoder makes."""
    end = cast(Endpoint, channel)
    [(header, body)] = wire.split(kind.code, end.boot, next(end._ids), msgpack.packb(values), 1 << 16)  # type: ignore[attr-defined]
    end._publish(Chunk(f"sc/1/{RUN}/{end.name}/{kind.channel}", kind.__name__, header, body, 1, False))  # type: ignore[attr-defined]


@pytest.mark.parametrize("partial", [[[]], [[1]], [[1, 0]], [[1, 0, 65534] * 3], [[1, 0, 2**32]]])
@pytest.mark.parametrize("plane", ["memory", "embedded"])
def test_no_word_of_an_agent_costs_the_server_its_connection(plane: str, partial: list[list[int]]) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            await server.send("a", End(True, ""))
            say(agent, DownHeld, [server.boot, True, [], partial])
            assert "DownHeld.partial" in cast(Malformed, await next_of(server)).reason
            await agent.send("server", HELLO)
            assert await next_of(server) == HELLO
            if isinstance(server, MqttChannel):
                assert server.tcp()["connections"] == 1

    play(PLANES[plane], script)


def test_an_error_that_nobody_thought_of_is_one_peers_malformed_message() -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent, join("b") as other:
            with mock.patch("broker.lane.Lane.held", side_effect=KeyError("x")):
                await server.send("a", End(True, ""))
                say(agent, DownHeld, [server.boot, False, [], []])
                assert await next_of(server) == Malformed("KeyError: 'x'")
            await other.send("server", Failure("still here"))
            assert await next_of(server) == Failure("still here")
            assert cast(MqttChannel, server).tcp()["connections"] == 1

    play(PLANES["embedded"], script)


def test_leaving_while_a_connection_is_made_leaves_no_error_to_nobody() -> None:
    heard: list[dict[str, Any]] = []

    async def lose(agent: MqttChannel) -> MqttConnection:
        await until(lambda: agent._connection is not None)
        assert agent._connection is not None
        agent._connection.abort()
        return agent._connection

    async def leave_disconnected(host: str, port: int) -> None:
        async with MqttChannel(RUN, "a", host, port, ChannelConfig(window=1)) as agent:
            for _ in range(3):
                lost = await lose(agent)
                await until(lambda lost=lost: agent._connection not in (None, lost))  # type: ignore[misc]
            await lose(agent)
            await until(lambda: agent._connection is None)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        async with asyncio.timeout(30), Broker(BrokerConfig(port=0)) as broker:
            await leave_disconnected(*broker.address)
        gc.collect()

    asyncio.run(main())
    assert heard == []


@contextmanager
def relay_process(port: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A relay that can be stopped and continued by a signal, and its port."""
    command = [sys.executable, "-m", "tests.broker.relay", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


@pytest.mark.slow
def test_a_server_that_does_not_read_for_a_while_is_not_flooded_by_many_agents() -> None:
    agents, body = 20, bytes(6 * MIB)

    async def main() -> None:
        async with asyncio.timeout(50), Broker(BrokerConfig(port=0)) as broker, AsyncExitStack() as stack:
            host, port = broker.address
            relay, behind = stack.enter_context(relay_process(port))
            config = ChannelConfig(timeout_s=40.0, inbox=1024)
            server = await stack.enter_async_context(MqttChannel(RUN, "server", host, behind, config))
            channels = [
                await stack.enter_async_context(MqttChannel(RUN, f"a{n}", host, port, CONFIG)) for n in range(agents)
            ]
            await until(lambda: all(channel._limit == share(agents) for channel in channels))
            relay.send_signal(signal.SIGSTOP)
            up = ActivationUp(1, 0, body, b"", -1, [])
            sends = [asyncio.create_task(channel.send("server", up)) for channel in channels]
            lanes = [channel._lane("server", "up") for channel in channels]
            await until(lambda: all(lane._unconfirmed >= share(agents) and not lane._under_way for lane in lanes))
            relay.send_signal(signal.SIGCONT)
            for _ in range(agents):
                assert len((await next_of(server, ActivationUp)).packet) == len(body)
            await asyncio.gather(*sends)
            sent = sum(channel.sent["ActivationUp"].body_bytes for channel in channels)
            assert sent < 1.5 * agents * len(body)
            assert server.tcp()["connections"] == 1

    asyncio.run(main())


def test_agents_that_come_back_repeat_no_more_than_their_share_each() -> None:
    agents, body = 12, bytes(6 * MIB)

    async def main() -> None:
        async with asyncio.timeout(50), Broker(BrokerConfig(port=0)) as broker, AsyncExitStack() as stack:
            config = ChannelConfig(timeout_s=40.0, inbox=1024)
            server = await stack.enter_async_context(MqttChannel(RUN, "server", *broker.address, config))
            channels = [
                await stack.enter_async_context(MqttChannel(RUN, f"a{n}", *broker.address, CONFIG))
                for n in range(agents)
            ]
            await until(lambda: all(channel._limit == share(agents) for channel in channels))
            up = ActivationUp(1, 0, body, b"", -1, [])
            sends = [asyncio.create_task(channel.send("server", up)) for channel in channels]
            await until(lambda: chunks(server.received, "ActivationUp") > 2 * agents)
            assert server._connection is not None
            server._connection.abort()
            for _ in range(agents):
                assert len((await next_of(server, ActivationUp)).packet) == len(body)
            await asyncio.gather(*sends)
            sent = sum(channel.sent["ActivationUp"].body_bytes for channel in channels)
            assert sent <= agents * (len(body) + 1.5 * share(agents))
            assert server.tcp()["connections"] == 2

    asyncio.run(main())


@pytest.mark.parametrize("plane", ["memory", "embedded"])
def test_every_agent_is_told_its_share_when_others_come_or_go_and_by_a_new_server(plane: str) -> None:
    async def script(join: Join) -> None:
        async with AsyncExitStack() as stack:
            agents = [cast(Endpoint, await stack.enter_async_context(join(f"a{n}"))) for n in range(7)]

            async def told(limit: int) -> None:
                await until(lambda: {agent._limit for agent in agents} == {limit})

            assert {agent._limit for agent in agents} == {UNCONFIRMED_BYTES}
            for _ in range(2):
                async with join("server") as server:
                    await told(UNCONFIRMED_BYTES // 2)
                    assert server.sent["Share"].messages == len(agents)
                    async with AsyncExitStack() as more:
                        for n in range(6):
                            await more.enter_async_context(join(f"b{n}"))
                        await told(UNCONFIRMED_BYTES // 4)
                    await told(UNCONFIRMED_BYTES // 2)

    play(PLANES[plane], script)


@pytest.mark.parametrize("agents", [25, 400])
def test_a_long_message_gets_through_however_small_the_share(agents: int) -> None:
    async def main() -> None:
        hub = MemoryHub(ChannelConfig(timeout_s=10.0, inbox=1024))
        async with asyncio.timeout(20), hub.server(RUN) as server, AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(hub.agent(f"a{n}", RUN)) for n in range(agents)]
            await until(lambda: all(channel._limit == share(agents) for channel in channels))
            ups = [ActivationUp(n, 0, bytes(size), b"", -1, []) for n, size in enumerate((70_000, 3 * MIB, 5, 66_000))]
            sends = [asyncio.create_task(channels[0].send("server", up)) for up in ups]
            assert [await next_of(server, ActivationUp) for _ in ups] == ups
            await asyncio.gather(*sends)

    asyncio.run(main())


def test_an_agent_asks_for_word_that_was_lost() -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            up = ActivationUp(1, 0, bytes(6 * MIB), b"", -1, [])
            tell, lost = cast(Any, server)._tell, []

            def lose(peer: str, resume: bool) -> None:
                if resume:
                    tell(peer, resume)
                else:
                    lost.append(cast(Any, server)._arrivals[peer].word(resume))

            with mock.patch.object(server, "_tell", lose):
                await asyncio.gather(agent.send("server", up), next_of(server, ActivationUp))
            assert lost
            assert server.received["State"].messages == 2

    play(PLANES["memory"], script, ChannelConfig(timeout_s=1.0))


def test_a_new_server_for_which_few_agents_are_left_allows_each_all_again() -> None:
    async def main() -> None:
        hub = MemoryHub(CONFIG)
        async with asyncio.timeout(20), hub.agent("a", RUN) as agent, AsyncExitStack() as stack:
            async with hub.server(RUN):
                for n in range(7):
                    await stack.enter_async_context(hub.agent(f"b{n}", RUN))
                await until(lambda: agent._limit < UNCONFIRMED_BYTES)
            await stack.aclose()
            async with hub.server(RUN):
                await until(lambda: agent._limit == UNCONFIRMED_BYTES)

    asyncio.run(main())


def test_an_agent_that_was_away_while_others_left_is_allowed_all_again() -> None:
    async def main() -> None:
        hub = MemoryHub(CONFIG)
        async with asyncio.timeout(20), hub.server(RUN) as server, hub.agent("a", RUN) as agent:
            async with AsyncExitStack() as stack:
                for n in range(7):
                    await stack.enter_async_context(hub.agent(f"b{n}", RUN))
                await until(lambda: agent._limit < UNCONFIRMED_BYTES)
                await agent.send("server", State("offline", agent.boot))
            await until(lambda: server._share == UNCONFIRMED_BYTES)
            agent._announce()
            await until(lambda: agent._limit == UNCONFIRMED_BYTES)

    asyncio.run(main())


@asynccontextmanager
async def ends(of_server: ChannelConfig, of_agent: ChannelConfig) -> AsyncIterator[tuple[MqttChannel, MqttChannel]]:
    """A server and an agent with limits of their own."""
    async with (
        Broker(BrokerConfig(port=0)) as broker,
        MqttChannel(RUN, "server", *broker.address, of_server) as server,
        MqttChannel(RUN, "a", *broker.address, of_agent) as agent,
    ):
        yield server, agent


def test_a_message_that_is_too_large_for_its_receiver_ends_alone() -> None:
    async def main() -> None:
        async with asyncio.timeout(20), ends(CONFIG, SMALL) as (server, agent):
            with pytest.raises(BrokerError, match="a refused GradientDown"):
                await server.send("a", GradientDown(1, bytes(3 * MIB), 0.0))
            await server.send("a", GradientDown(2, b"", 0.0))
            assert "is over the limit of 65536" in (await next_of(agent)).reason
            assert await next_of(agent) == GradientDown(2, b"", 0.0)

    asyncio.run(main())


def test_messages_that_are_too_large_leave_place_for_others() -> None:
    async def main() -> None:
        async with asyncio.timeout(20), ends(SMALL, CONFIG) as (server, agent):
            refused = ActivationUp(1, 0, bytes(100_000), b"", -1, [])
            for _ in range(2 * UNCONFIRMED_BYTES // len(refused.packet)):
                with suppress(BrokerError):  # whether it is refused before the broker has all of it
                    await agent.send("server", refused)
                assert isinstance(await next_of(server), Malformed)
            assert agent._lane("server", "up")._unconfirmed < UNCONFIRMED_BYTES

    asyncio.run(main())


@pytest.mark.parametrize("lost", [1000, 1500])
def test_the_peer_hears_of_all_that_has_come_though_every_word_of_it_was_lost(lost: int) -> None:
    target = Arrivals(MIB, {Failure.code, End.code})

    def take(number: int) -> None:
        [(header, body)] = wire.split((Failure.code, End.code)[number % 2], 7, number, b"", 1 << 16)
        target.add(wire.parse(header + bytes(body)))

    for number in range(lost):
        take(number)
    named = set(target.word(resume=True)[0])
    for number in set(range(lost)) - named:
        take(number)
    named.update(target.word(resume=False)[0])
    assert named == set(range(lost))


def test_the_peer_that_was_not_heard_for_longest_makes_place_for_a_new_one() -> None:
    async def script(join: Join) -> None:
        async with join("server") as server:
            with mock.patch("broker.endpoint.MAX_SENDERS", 3):
                for name in "abcdef":
                    async with join(name) as agent:
                        await agent.send("server", HELLO)
                        assert await next_of(server) == HELLO
                        await server.send(name, End(True, ""))
                    while await server.receive() != (name, State("offline", agent.boot)):
                        pass
                end = cast(Endpoint, server)
                known = [end._arrivals, end._boots, end._rates, end.last_heard, {name for name, _ in end._lanes}]
                assert all(set(names) - {"server"} == set("def") for names in known)
                async with join("d"), join("g"), join("h"):
                    await until(lambda: set(end._online) == set("dgh"))
                    async with join("i") as late:
                        await late.send("server", HELLO)
                        refused = cast(Malformed, await next_of(server))
                        assert refused.reason == "i is one sender more than the 3 allowed"

    play(PLANES["memory"], script)


def test_what_a_cancelled_send_has_left_makes_room_for_others_messages() -> None:
    config = ChannelConfig(chunk_bytes=1 << 14, window=2, max_message_bytes=MIB, timeout_s=20.0)

    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as a, join("b") as b:
            end, up = cast(Endpoint, server), ActivationUp(1, 0, bytes(900_000), b"", -1, [])
            cancelled = asyncio.create_task(a.send("server", up))
            await until(lambda: chunks(server.received, "ActivationUp") > 3)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            assert end._room.used > 900_000
            await asyncio.gather(b.send("server", up), next_of(server))
            assert end._room.used == 0
            await asyncio.gather(a.send("server", up), next_of(server))

    with mock.patch("broker.endpoint.ROOM", 1):
        play(PLANES["memory"], script, config)


def test_a_message_that_made_room_for_another_comes_again() -> None:
    config = ChannelConfig(chunk_bytes=1 << 14, window=2, max_message_bytes=MIB, timeout_s=20.0)

    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as a:
            end, down = cast(Endpoint, a), GradientDown(1, bytes(900_000), 0.0)
            sending = asyncio.create_task(server.send("a", down))
            await until(lambda: chunks(a.received, "GradientDown") > 3)
            end._room.take((None, 0), MIB, lambda: end._room.release((None, 0)))
            assert await next_of(a) == down
            await sending

    with mock.patch("broker.endpoint.ROOM", 1):
        play(PLANES["memory"], script, config)

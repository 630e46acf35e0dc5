"""Channels over MQTT: what happens to connections and brokers, and what the kernel counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, cast
from unittest import mock

import pytest

from broker import held
from broker.channel import Channel, ChannelConfig
from broker.client import MqttChannel
from broker.errors import ConnectError, DeadlineError
from broker.held import HELD
from broker.messages import ActivationUp, Failure, GradientDown, State, StepRefused, UpHeld
from broker.packets import V5, Connack, Connect, Pingreq, Pingresp, Puback, Publish, Suback, Subscribe
from broker.server import Broker, BrokerConfig
from tests.broker import planes
from tests.broker.fake_broker import FakeBroker, listening
from tests.broker.planes import (
    HELLO,
    OVER_MQTT,
    RUN,
    BrokerProcess,
    Join,
    Plane,
    chunks,
    free_port,
    next_of,
    play,
    refusing_mqtt_5,
)
from tests.broker.rabbitmq import RabbitMQ
from tests.broker.raw import until
from tests.broker.relay import Relay

over_mqtt = pytest.mark.parametrize("plane", OVER_MQTT, indirect=True)

BIG = bytes(range(256)) * 8192  # 2 MiB
LARGEST = 2**24  # bytes of a chunk


@over_mqtt
@pytest.mark.parametrize("cut", ["server", "a"])
def test_a_lost_connection_in_the_middle_of_transfers_loses_nothing(plane: Plane, cut: str) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            await both_ways(server, agent, lambda: break_connection({"server": server, "a": agent}[cut]))

    play(plane, script, ChannelConfig(chunk_bytes=16384, window=2, timeout_s=20.0))


@over_mqtt
def test_the_largest_chunk_crosses(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            down = GradientDown(1, bytes(LARGEST), 0.0)
            _, received = await asyncio.gather(server.send("a", down), next_of(agent))
            assert received == down
            assert chunks(server.sent, "GradientDown") == 2
            assert server.sent["GradientDown"].body_bytes > LARGEST

    play(plane, script, ChannelConfig(chunk_bytes=LARGEST, timeout_s=20.0))


@over_mqtt
def test_of_two_clients_with_one_name_one_stays(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as first, AsyncExitStack() as stack:
            try:
                second = await stack.enter_async_context(join("a"))
            except ConnectError:
                staying = first  # it came back and pushed the other out while that one was still connecting
            else:
                hearing = {asyncio.create_task(next_of(end)): end for end in (first, second)}
                [ended], [waiting] = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
                with pytest.raises(ConnectError, match=r"another client.* the name a"):
                    await ended
                waiting.cancel()
                staying = hearing[waiting]
            await staying.send("server", HELLO)
            assert await next_of(server) == HELLO

    play(plane, script, ChannelConfig(timeout_s=2.0))


@pytest.mark.rabbitmq
def test_rabbitmq_is_spoken_to_in_3_1_1(rabbitmq: RabbitMQ) -> None:
    async def script(join: Join) -> None:
        async with join("a") as agent:
            assert cast(MqttChannel, agent).tcp()["connections"] == 2  # the first attempt is with MQTT 5

    async def refused(join: Join) -> None:
        with pytest.raises(ConnectError, match=f"^cannot reach broker 127.0.0.1:{rabbitmq.port}: .* speaks no MQTT 5$"):
            async with join("a"):
                pass

    through = planes.rabbitmq(rabbitmq.port)
    play(through, script)
    play(planes.speaking("5", through), refused)


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_broker_restarted_in_the_middle_of_transfers_loses_nothing(kind: str) -> None:
    with BrokerProcess(kind) as broker:
        restarted_in_the_middle(broker, 30.0)


@pytest.mark.rabbitmq
def test_rabbitmq_restarted_in_the_middle_of_transfers_loses_nothing(rabbitmq: RabbitMQ) -> None:
    restarted_in_the_middle(rabbitmq, 120.0)


def restarted_in_the_middle(broker: BrokerProcess | RabbitMQ, timeout_s: float) -> None:
    async def main() -> None:
        config = ChannelConfig(chunk_bytes=16384, window=2, timeout_s=timeout_s)
        async with (
            asyncio.timeout(2 * timeout_s),
            MqttChannel(RUN, "server", "127.0.0.1", broker.port, config) as server,
            MqttChannel(RUN, "a", "127.0.0.1", broker.port, config) as agent,
        ):

            def restart() -> None:
                broker.kill()
                broker.start()

            await both_ways(server, agent, restart)
            assert agent.tcp()["connections"] >= 2

    asyncio.run(main())


async def both_ways(server: Channel, agent: Channel, disturb: Callable[[], None]) -> None:
    """Two megabytes up and down at once, disturbed in the middle, then two steps more."""
    up, down = ActivationUp(1, 0, BIG, b"", -1, []), GradientDown(1, BIG, 0.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.send("server", up))
        group.create_task(server.send("a", down))
        both = group.create_task(next_of(server)), group.create_task(next_of(agent))
        await until(lambda: chunks(server.received, "ActivationUp") > 9 and chunks(agent.sent, "Credit") > 9)
        disturb()
    assert [task.result() for task in both] == [up, down]
    for step in (2, 3):
        await agent.send("server", ActivationUp(step, 0, b"", b"", step - 1, []))
        assert (await next_of(server)).step == step
        await server.send("a", GradientDown(step, b"", 0.0))
        assert (await next_of(agent)).step == step
    assert server.received["ActivationUp"].messages == agent.received["GradientDown"].messages == 3


def break_connection(channel: Channel) -> None:
    connection = cast(MqttChannel, channel)._connection
    assert connection is not None
    connection.abort()


def test_a_broker_that_stays_away_ends_the_channel() -> None:
    async def main() -> None:
        with BrokerProcess("embedded") as broker:
            config = ChannelConfig(timeout_s=0.5)
            async with asyncio.timeout(30), MqttChannel(RUN, "a", "127.0.0.1", broker.port, config) as agent:
                broker.kill()
                reason = f"cannot reach broker 127.0.0.1:{broker.port}: Connection refused; no connection for 0.5 s"
                with pytest.raises(ConnectError, match=reason):
                    await agent.receive()
                with pytest.raises(ConnectError, match=reason):
                    await agent.send("server", HELLO)

    asyncio.run(main())


def test_a_broker_that_cannot_be_reached_is_named() -> None:
    port = free_port()

    async def main() -> None:
        async with MqttChannel(RUN, "a", "127.0.0.1", port):
            pass

    with pytest.raises(ConnectError, match=f"^cannot reach broker 127.0.0.1:{port}: Connection refused$"):
        asyncio.run(main())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_listener_that_is_no_broker_is_named(answer: bytes) -> None:
    async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectError, match=f"cannot reach broker 127.0.0.1:{port}: it closed the connection"):
                async with asyncio.timeout(30), MqttChannel(RUN, "a", "127.0.0.1", port):
                    pass

    asyncio.run(main())


def test_a_listener_that_never_answers_runs_into_the_deadline() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectError, match="no answer in time"):
                async with MqttChannel(RUN, "a", "127.0.0.1", port, ChannelConfig(timeout_s=0.2)):
                    pass

    asyncio.run(main())


def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Broker(BrokerConfig(port=0)) as broker:
            host, port = broker.address
            with refusing_mqtt_5(port) as listen:
                async with listen() as old, MqttChannel(RUN, "server", host, port) as server:
                    async with MqttChannel(RUN, "a", host, old) as agent:
                        await agent.send("server", HELLO)
                        assert await next_of(server) == HELLO
                        assert agent.tcp()["connections"] == 2
                    with pytest.raises(ConnectError, match="unsupported protocol version"):
                        async with MqttChannel(RUN, "b", host, old, ChannelConfig(protocol="5")):
                            pass

    asyncio.run(main())


def test_a_connection_that_is_closed_once_does_not_decide_for_an_older_version() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), listening(V5) as (port, made):
            agent = MqttChannel(RUN, "a", "127.0.0.1", port)
            entering = asyncio.create_task(agent.__aenter__())
            versions = []
            for ending in (True, False, False):
                broker = await made.get()
                versions.append(await introduced(broker))
                if ending:
                    broker.writer.close()
                    continue
                serving = asyncio.create_task(serve(broker, lambda packet: Puback(packet.packet_id)))
                await until(lambda: agent.sent.get("State") is not None)
                await entering
                broker.writer.close()
                await asyncio.wait([serving])
            assert versions == [5, 4, 5]
            await agent.__aexit__(ZeroDivisionError, None, None)

    asyncio.run(main())


def test_a_broker_that_answers_pings_but_acknowledges_nothing_runs_into_the_deadline() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), listening(V5) as (port, made):
            agent = MqttChannel(RUN, "a", "127.0.0.1", port, ChannelConfig(timeout_s=2.0, keepalive_s=1))
            entering = asyncio.create_task(agent.__aenter__())
            broker = await made.get()
            await introduced(broker)
            serving = asyncio.create_task(serve(broker, lambda _: None))
            began = asyncio.get_running_loop().time()
            with pytest.raises(DeadlineError, match="awaited an acknowledgement of the broker"):
                await entering
            assert 2.0 <= asyncio.get_running_loop().time() - began < 4.0
            broker.writer.close()
            await asyncio.wait([serving])

    asyncio.run(main())


def test_what_ends_tell_each_other_is_said_again_where_the_broker_refused_it() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), listening(V5) as (port, made):
            agent = MqttChannel(RUN, "a", "127.0.0.1", port)
            entering = asyncio.create_task(agent.__aenter__())
            broker = await made.get()
            words: list[bytes] = []

            def answer(packet: Publish) -> Puback:
                word = packet.topic.endswith("/ack")
                words.extend([bytes(packet.payload)] * word)
                return Puback(packet.packet_id, 0x97 if word and len(words) == 1 else 0)

            await introduced(broker)
            serving = asyncio.create_task(serve(broker, answer))
            await entering
            agent._tell("server", resume=True)
            await until(lambda: len(words) == 2)
            assert words[0] == words[1]
            assert agent.refused == 1
            await until(lambda: not agent._unacknowledged)
            broker.writer.close()
            await agent.__aexit__(ZeroDivisionError, None, None)
            await asyncio.wait([serving])

    asyncio.run(main())


def test_an_end_says_again_that_it_is_back_where_the_broker_refused_it() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), listening(V5) as (port, made), asyncio.TaskGroup() as serving:
            agent = MqttChannel(RUN, "a", "127.0.0.1", port)
            entering = serving.create_task(agent.__aenter__())
            states: list[bytes] = []

            def answer(packet: Publish) -> Puback:
                if packet.topic.endswith("/state"):
                    states.append(bytes(packet.payload))
                    return Puback(packet.packet_id, 0x97 if len(states) == 2 else 0)
                return Puback(packet.packet_id)

            first = await made.get()
            await introduced(first)
            serving.create_task(serve(first, answer))
            await entering
            first.writer.close()
            second = await made.get()
            await introduced(second)
            serving.create_task(serve(second, answer))
            await until(lambda: len(states) == 3)
            assert states[1] == states[2]
            second.writer.close()
            await agent.__aexit__(ZeroDivisionError, None, None)

    asyncio.run(main())


def test_what_was_lost_is_sent_until_the_broker_takes_it_again() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), listening(V5) as (port, made), asyncio.TaskGroup() as serving:
            agent = MqttChannel(RUN, "a", "127.0.0.1", port)
            entering = serving.create_task(agent.__aenter__())
            sent: list[bytes] = []

            def answer(packet: Publish) -> Puback:
                again = packet.topic.endswith("/info")
                sent.extend([bytes(packet.payload)] * again)
                return Puback(packet.packet_id, 0x97 if again and len(sent) == 2 else 0)

            broker = await made.get()
            await introduced(broker)
            serving.create_task(serve(broker, answer))
            await entering
            await agent.send("server", HELLO)
            agent._peer_has("server", UpHeld(agent.boot, True, [], []))
            await until(lambda: len(sent) == 3)
            assert len(set(sent)) == 1
            broker.writer.close()
            await agent.__aexit__(ZeroDivisionError, None, None)

    asyncio.run(main())


async def introduced(broker: FakeBroker) -> int:
    """The version in which a client introduces itself."""
    broker.version = (await broker.next(Connect)).version
    return broker.version


async def serve(broker: FakeBroker, answer: Callable[[Publish], Puback | None]) -> None:
    """Accept a client, and answer what it sends; its messages with `answer`."""
    await broker.say(Connack())
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            match await broker.packet():
                case Subscribe() as asked:
                    await broker.say(Suback(asked.packet_id, (1,) * len(asked.requests)))
                case Pingreq():
                    await broker.say(Pingresp())
                case Publish() as message if (said := answer(message)) is not None:
                    await broker.say(said)


@pytest.mark.slow
def test_a_path_that_is_reset_again_and_again_ends_nothing_while_messages_get_through() -> None:
    async def main() -> None:
        config = ChannelConfig(timeout_s=1.0)
        async with (
            asyncio.timeout(30),
            Broker(BrokerConfig(port=0)) as broker,
            Relay(broker.address[1]) as relay,
            MqttChannel(RUN, "server", *broker.address) as server,
            MqttChannel(RUN, "a", "127.0.0.1", relay.port, config) as agent,
        ):
            clock = asyncio.get_running_loop().time
            began, count = clock(), 0
            while clock() - began < 3 * config.timeout_s:
                for _ in range(3):
                    await agent.send("server", Failure(str(count)))
                    count += 1
                connection = agent._connection
                relay.reset()
                await agent.send("server", Failure(str(count)))
                count += 1
                await until(lambda connection=connection: agent._connection not in (None, connection))  # type: ignore[misc]
            assert sorted([int((await next_of(server)).reason) for _ in range(count)]) == list(range(count))

    asyncio.run(main())


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_either_version_of_mqtt_can_be_asked_for(protocol: Any) -> None:
    async def main() -> None:
        config = ChannelConfig(protocol=protocol)
        async with (
            asyncio.timeout(30),
            Broker(BrokerConfig(port=0)) as broker,
            MqttChannel(RUN, "server", *broker.address, config) as server,
            MqttChannel(RUN, "a", *broker.address, config) as agent,
        ):
            await agent.send("server", HELLO)
            assert await next_of(server) == HELLO

    asyncio.run(main())


@pytest.mark.parametrize("places", [HELD, 100])
def test_a_program_that_does_not_receive_for_a_while_loses_nothing_in_mqtt_3_1_1_either(places: int) -> None:
    """There is no receive maximum in it, so more may come than is held; its own messages go out all the same."""

    async def main() -> None:
        config = ChannelConfig(protocol="3.1.1", inbox=4, keepalive_s=1, timeout_s=20.0)
        count = 400
        async with (
            asyncio.timeout(30),
            Broker(BrokerConfig(port=0)) as broker,
            MqttChannel(RUN, "server", *broker.address, config) as server,
            MqttChannel(RUN, "a", *broker.address) as agent,
        ):
            for number in range(count):
                await agent.send("server", Failure(str(number)))
            await until(lambda: server._held.missed or server._held.chunks + config.inbox > count)
            connection = server._connection
            assert connection is not None
            for _ in range(3):
                pings = connection._count.packets_out
                await until(lambda pings=pings: connection._count.packets_out > pings)  # type: ignore[misc]
            await server.send("a", StepRefused(1, "", []))
            assert (server.tcp()["connections"], server._held.chunks) == (1, min(places, count + 1 - config.inbox))
            assert [(await next_of(server)).reason for _ in range(count)] == [str(number) for number in range(count)]
            assert not broker.snapshot()["totals"]["ended"]
            assert (server.tcp()["connections"] == 1) == (places == HELD)
            assert (await next_of(agent)).step == 1
            assert server._inbox.lost == 0

    with mock.patch.object(held, "HELD", places):
        asyncio.run(main())


def test_a_second_client_of_the_same_name_ends_the_first() -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(30),
            Broker(BrokerConfig(port=0)) as broker,
            MqttChannel(RUN, "a", *broker.address) as first,
            MqttChannel(RUN, "a", *broker.address),
        ):
            with pytest.raises(ConnectError, match="another client took the name a"):
                await first.receive()

    asyncio.run(main())


def test_the_kernels_count_equals_the_brokers_over_reconnects() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Broker(BrokerConfig(port=0)) as broker:
            async with MqttChannel(RUN, "server", *broker.address) as server:
                async with MqttChannel(RUN, "a", *broker.address) as agent:
                    await agent.send("server", ActivationUp(1, 0, BIG, b"", -1, []))
                    # What is under way when a connection is cut is read by nobody.
                    await until(lambda: chunks(agent.received, "UpHeld") == 2)
                    break_connection(agent)
                    await until(lambda: agent.sent["State"].messages == 2)
                    await server.send("a", GradientDown(1, BIG, 0.0))
                    await next_of(agent)
                while (await next_of(server, State)).status != "offline":
                    pass
            tcp, count = agent.tcp(), broker.counters[f"sc-{RUN}-a"]
            assert tcp["connections"] == count.connections == 2
            assert tcp["sent_bytes"] == count.bytes_in
            assert tcp["received_bytes"] == count.bytes_out
            if tcp["peer_sent_bytes"] is not None:
                assert tcp["peer_sent_bytes"] == tcp["sent_bytes"]
                assert tcp["peer_received_bytes"] == tcp["received_bytes"]

    asyncio.run(main())

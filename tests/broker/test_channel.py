"""One conformance suite for every channel: memory, and both versions of MQTT through every broker."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, cast

import pytest

from broker import messages, wire
from broker.channel import Channel, ChannelConfig, Count, Malformed
from broker.client import MqttChannel
from broker.endpoint import Endpoint
from broker.errors import DeadlineError, WireError
from broker.messages import (
    ActivationUp,
    Begin,
    End,
    Failure,
    GradientDown,
    Hello,
    Message,
    Metrics,
    State,
    Welcome,
)
from broker.outgoing import Chunk
from broker.server import Broker, BrokerConfig
from tests.broker.planes import (
    EVERYWHERE,
    HELLO,
    OVER_MQTT,
    PLANES,
    RUN,
    Join,
    Plane,
    chunks,
    next_of,
    play,
)
from tests.broker.raw import until

everywhere = pytest.mark.parametrize("plane", EVERYWHERE, indirect=True)

BIG = bytes(range(256)) * 8192  # 2 MiB
SMALL = ChannelConfig(chunk_bytes=1024, window=2, timeout_s=20.0)


async def nothing_more(sender: Channel, receiver: Channel) -> None:
    """Nothing is under way on `ack`, which a marker shows that takes the same road."""
    await sender.send("server", Failure("marker"))
    assert await next_of(receiver) == Failure("marker")


def inject(channel: Channel, topic: str, payload: bytes, protocol: int = 1) -> asyncio.Future[None]:
    """Publish raw bytes from a channel's end, in its run."""
    end = cast(Endpoint, channel)
    return end._publish(Chunk(f"sc/{protocol}/{end.run}/{topic}", "raw", b"", memoryview(payload), 1, False))


async def fall(channel: Channel) -> None:
    """Enter a channel and leave it by an exception."""
    async with channel:
        raise ZeroDivisionError


def chunks_of(message: Message, size: int, boot: int, message_id: int) -> list[bytes]:
    body = messages.encode(message)
    return [header + bytes(chunk) for header, chunk in wire.split(message.code, boot, message_id, body, size)]


@everywhere
def test_messages_arrive_with_their_sender_and_type(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as a, join("b") as b:
            for agent in (a, b):
                await agent.send("server", Hello(agent.name, agent.boot, 1, 10, "", ""))
            heard = [await server.receive() for _ in range(4)]
            assert {name for name, message in heard if isinstance(message, State)} == {"a", "b"}
            hellos = [(name, message) for name, message in heard if isinstance(message, Hello)]
            assert sorted((name, hello.client, hello.boot) for name, hello in hellos) == [
                ("a", "a", a.boot),
                ("b", "b", b.boot),
            ]
            assert set(server.last_heard) == {"a", "b"}
            for name in "ba":
                await server.send(name, Welcome({"to": name}, 1))
            assert await next_of(a) == Welcome({"to": "a"}, 1)
            assert await next_of(b) == Welcome({"to": "b"}, 1)
            await a.send("server", Metrics({"loss": 1.5}))
            assert await server.receive() == ("a", Metrics({"loss": 1.5}))

    play(plane, script)


@everywhere
def test_agents_learn_whether_the_server_is_there(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("early") as early:
            async with join("server") as server, join("late") as late:
                for agent in (early, late):
                    assert await agent.receive() == ("server", State("online", server.boot))
            assert await early.receive() == ("server", State("offline", server.boot))

    play(plane, script)


@everywhere
def test_send_tells_the_bytes_of_the_body(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server"), join("a") as agent:
            assert await agent.send("server", HELLO) == len(messages.encode(HELLO))

    play(plane, script)


@everywhere
def test_two_megabytes_cross_in_chunks_with_a_window_of_two(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            up, down = ActivationUp(1, 0, BIG, b"labels", -1, []), GradientDown(1, BIG, 0.5)
            async with asyncio.TaskGroup() as group:
                group.create_task(agent.send("server", up))
                group.create_task(server.send("a", down))
                assert await next_of(agent) == down
                assert await next_of(server) == up
            await nothing_more(agent, server)
            chunks = len(messages.encode(down)) // 65536 + 1
            assert server.sent["GradientDown"] == agent.received["GradientDown"]
            assert agent.received["GradientDown"].chunks == chunks
            # One chunk is half the window: a credit for every chunk but the last, and none on the way up.
            assert agent.sent["Credit"].messages == server.received["Credit"].messages == chunks - 1
            assert "Credit" not in server.sent

    play(plane, script, ChannelConfig(chunk_bytes=65536, window=2, timeout_s=20.0))


@pytest.mark.parametrize(("window", "chunks", "credits"), [(4, 4, 0), (4, 5, 2), (4, 8, 3), (1, 3, 2), (5, 9, 4)])
@everywhere
def test_credits_follow_the_chunk_index(plane: Plane, window: int, chunks: int, credits: int) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            await asyncio.gather(server.send("a", GradientDown(1, bytes(1000 * chunks), 0.0)), next_of(agent))
            assert server.sent["GradientDown"].chunks == chunks
            assert agent.sent.get("Credit", Count()).messages == credits

    play(plane, script, ChannelConfig(chunk_bytes=1010, window=window, timeout_s=20.0))


def test_both_ends_may_have_different_windows() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Broker(BrokerConfig(port=0)) as broker:
            narrow, wide = ChannelConfig(chunk_bytes=1024, window=1), ChannelConfig(chunk_bytes=4096, window=64)
            async with (
                MqttChannel(RUN, "server", *broker.address, narrow) as server,
                MqttChannel(RUN, "a", *broker.address, wide) as agent,
            ):
                message = GradientDown(1, BIG[:50_000], 0.0)
                _, received = await asyncio.gather(server.send("a", message), next_of(agent))
                assert received == message

    asyncio.run(main())


@everywhere
def test_messages_on_one_topic_keep_the_order_of_the_calls(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            sends = [agent.send("server", ActivationUp(step, 0, bytes(5000), b"", -1, [])) for step in range(20)]
            gathered = asyncio.gather(*sends)
            assert [(await next_of(server)).step for _ in range(20)] == list(range(20))
            await gathered

    play(plane, script, SMALL)


@everywhere
def test_control_overtakes_bulk(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent, asyncio.TaskGroup() as group:
            group.create_task(server.send("a", GradientDown(1, bytes(100_000), 0.0)))
            group.create_task(server.send("a", End(True, "")))
            assert isinstance(await next_of(agent), End)
            assert isinstance(await next_of(agent), GradientDown)

    play(plane, script, SMALL)


@everywhere
def test_a_cancelled_receive_loses_nothing(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            got: list[Any] = []
            sending = asyncio.gather(*(agent.send("server", ActivationUp(n, 0, b"", b"", -1, [])) for n in range(40)))
            patience = 0
            while len(got) < 40:
                task = asyncio.create_task(next_of(server))
                for _ in range(patience):
                    await asyncio.sleep(0)
                patience = (patience + 1) % 7
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    got.append(task.result().step)
            await sending
            assert got == list(range(40))

    play(plane, script)


@everywhere
def test_a_cancelled_send_leaves_the_channel_usable(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            for waited in range(0, 30, 3):
                task = asyncio.create_task(server.send("a", GradientDown(1, BIG, 0.0)))
                for _ in range(waited):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            message = GradientDown(2, BIG[:100_000], 0.0)
            _, received = await asyncio.gather(server.send("a", message), next_of(agent))
            assert received == message

    play(plane, script, ChannelConfig(chunk_bytes=16384, window=2, timeout_s=20.0))


@everywhere
def test_a_full_inbox_holds_messages_back_and_loses_none(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            sending = asyncio.gather(*(agent.send("server", ActivationUp(n, 0, b"", b"", -1, [])) for n in range(100)))
            await server.send("a", End(True, "the other direction still works"))
            await next_of(agent)
            assert [(await next_of(server)).step for _ in range(100)] == list(range(100))
            await sending

    play(plane, script, ChannelConfig(inbox=2, timeout_s=20.0))


@pytest.mark.parametrize("damage", ["checksum", "type", "body", "noise", "version"])
@everywhere
def test_what_cannot_be_decoded_is_delivered_as_malformed(plane: Plane, damage: str) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            data = bytearray(chunks_of(HELLO, 1000, agent.boot, 99)[0])
            if damage == "checksum":
                data[-1] ^= 1
            elif damage == "type":
                data = bytearray(chunks_of(Failure(""), 1000, agent.boot, 99)[0])
            elif damage == "body":
                [(header, body)] = wire.split(1, agent.boot, 99, b"\x96", 1000)
                data = bytearray(header + bytes(body))
            elif damage == "noise":
                data = bytearray(b"hello")
            else:
                data[2] = 9
            await inject(agent, "a/info", bytes(data))
            malformed = await next_of(server)
            assert isinstance(malformed, Malformed)
            assert malformed.version_mismatch == (damage == "version")
            await agent.send("server", HELLO)
            assert await next_of(server) == HELLO

    play(plane, script)


@pytest.mark.parametrize("plane", OVER_MQTT, indirect=True)
def test_an_agent_of_another_protocol_version_is_noticed(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            await inject(agent, "old/info", b"whatever version 2 says", protocol=2)
            while (heard := await server.receive())[0] != "old":
                pass
            assert heard[1] == Malformed("client 'old' speaks protocol 2, this end speaks protocol 1", True)

    play(plane, script)


@everywhere
def test_repeated_and_late_chunks_are_dropped_and_counted(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            up = ActivationUp(1, 0, bytes(2000), b"", -1, [])
            data = chunks_of(up, 512, agent.boot, 77)
            for piece in (data[1], data[0], data[1], *reversed(data), *data):
                await inject(agent, "a/up", piece)
            assert await next_of(server) == up
            await nothing_more(agent, server)
            assert server.received["ActivationUp"].messages == 1
            assert server.received["ActivationUp"].chunks == 3 + 2 * len(data)

    play(plane, script)


@everywhere
def test_leaving_in_order_and_leaving_by_an_exception_are_both_seen(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server:
            async with join("a") as first:
                assert await server.receive() == ("a", State("online", first.boot))
            assert await server.receive() == ("a", State("offline", first.boot))
            second = join("a")
            with pytest.raises(ZeroDivisionError):
                await fall(second)
            assert await server.receive() == ("a", State("online", second.boot))
            assert await server.receive() == ("a", State("offline", second.boot))
            assert (first.sent["State"].messages, second.sent["State"].messages) == (2, 1)

    play(plane, script)


@everywhere
def test_a_server_that_comes_later_gets_what_was_said_before(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("a") as agent:
            await agent.send("server", HELLO)
            async with join("server") as server:
                assert await next_of(server) == HELLO
                await nothing_more(agent, server)

    play(plane, script)


@everywhere
def test_a_new_process_is_not_told_what_was_said_to_the_old_one(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server:
            async with join("a"):
                await server.send("a", Welcome({"to": "the first"}, 1))
            async with join("a") as second:
                while cast(Endpoint, server)._boots["a"] != second.boot:
                    await server.receive()
                await server.send("a", Welcome({"to": "the second"}, 2))
                assert await next_of(second) == Welcome({"to": "the second"}, 2)

    play(plane, script)


@everywhere
def test_a_process_that_dies_in_the_middle_of_a_message_does_not_block_its_successor(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, asyncio.TaskGroup() as group:
            first = join("a")

            async def die() -> None:
                async with first:
                    group.create_task(server.send("a", GradientDown(1, BIG, 0.0)))
                    await until(lambda: chunks(first.sent, "Credit") > 5)
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await die()
            async with join("a") as second:
                group.create_task(server.send("a", GradientDown(2, b"", 0.0)))
                assert await next_of(second) == GradientDown(2, b"", 0.0)

    play(plane, script, ChannelConfig(chunk_bytes=16384, window=2, timeout_s=20.0))


@everywhere
def test_a_receiver_that_gives_no_credit_runs_into_the_deadline(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server:
            with pytest.raises(DeadlineError, match=r"ghost: no progress for 0\.3 s with GradientDown .* a credit"):
                await server.send("ghost", GradientDown(1, bytes(5000), 0.0))

    play(plane, script, ChannelConfig(chunk_bytes=1024, window=2, timeout_s=0.3))


@everywhere
def test_a_message_in_the_wrong_direction_or_over_the_limit_is_refused(plane: Plane) -> None:
    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            with pytest.raises(WireError, match="a cannot send Begin, which travels on down"):
                await agent.send("server", Begin(0, {}, b""))
            with pytest.raises(WireError, match="an agent sends to the server only, not to 'b'"):
                await agent.send("b", HELLO)
            with pytest.raises(WireError, match="server cannot send Hello"):
                await server.send("a", HELLO)
            with pytest.raises(WireError, match=r"GradientDown of .* bytes is over the limit of 65536"):
                await server.send("a", GradientDown(0, bytes(65536), 0.0))

    play(plane, script, ChannelConfig(max_message_bytes=65536))


def test_every_transport_makes_the_same_counts() -> None:
    counts: list[Any] = []

    async def script(join: Join) -> None:
        async with join("server") as server, join("a") as agent:
            await agent.send("server", HELLO)
            await next_of(server)
            await server.send("a", Welcome({"x": 1}, 2))
            await next_of(agent)
            for step in range(3):
                up = agent.send("server", ActivationUp(step, 0, bytes(9000), b"l", step - 1, []))
                await asyncio.gather(up, next_of(server))
                down = server.send("a", GradientDown(step, bytes(7000), 0.0))
                await asyncio.gather(down, next_of(agent))
            await server.send("a", End(True, "done"))
            await next_of(agent)
            await nothing_more(agent, server)
            counts.append(copy.deepcopy((agent.sent, agent.received, server.sent, server.received)))

    for each in (PLANES["memory"], PLANES["embedded"]):
        play(each, script, SMALL)
    assert counts[0] == counts[1]
    sent, received, server_sent, server_received = counts[0]
    assert (sent, received) == (server_received, server_sent)
    assert sent["ActivationUp"].envelope_bytes == 26 * sent["ActivationUp"].chunks


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chunk_bytes", 10),
        ("window", 0),
        ("window", 256),
        ("inbox", 0),
        ("keepalive_s", 0),
        ("timeout_s", 0.0),
        ("max_message_bytes", 1),
        ("protocol", "4"),
    ],
)
def test_bad_settings_name_the_key(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        ChannelConfig(**{key: value})

"""MQTT over WebSocket: clients that are slow, silent, too many or no clients at all, and the end of the broker."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

import aiohttp
import pytest

from broker.packet_encoder import encode
from broker.packets import V5, Connect, Pingreq, Pingresp, Publish
from broker.reasons import Reason
from tests.broker.raw import PATIENCE_S, publish, until
from tests.broker.serving import reasons
from tests.broker.websockets import connected_websocket, frame_head, upgraded, web


def test_a_slow_reader_is_capped_and_harms_nobody_else() -> None:
    cap, size = 1 << 20, 100_000

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(web(queue_bytes=cap))
            slow = await stack.enter_async_context(connected_websocket(broker, "slow"))
            await slow.subscribe("t")
            fast = await stack.enter_async_context(connected_websocket(broker, "fast"))
            await fast.subscribe("t")
            number = 0
            while not broker.snapshot()["totals"]["dropped"]:
                broker.publish("t", number.to_bytes(4, "big") * (size // 4))
                assert (await fast.expect(Publish)).payload[:4] == number.to_bytes(4, "big")
                assert broker.snapshot()["queued_bytes"] <= 2 * cap
                number += 1
            missed = number - 1
            kept = 0
            while (packet := await slow.expect(Publish)).payload[:4] != b"last":
                assert packet.payload[:4] == kept.to_bytes(4, "big")
                kept += 1
                if kept == missed:
                    broker.publish("t", b"last")
            assert kept == missed

    asyncio.run(scenario())


def test_clients_are_told_when_the_broker_closes() -> None:
    async def scenario() -> None:
        async with web() as broker:
            async with connected_websocket(broker, "c") as client:
                ending = asyncio.create_task(client.ended())
                await broker.__aexit__(None, None, None)
                assert reasons(await ending) == [Reason.SERVER_SHUTTING_DOWN]
                assert client.stream.closed_with == aiohttp.WSCloseCode.OK
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(broker.urls["websocket"].replace("ws:", "http:"))
            assert not broker._web[0]._open

    asyncio.run(scenario())


def test_neither_an_idle_connection_nor_an_unanswered_close_holds_the_broker() -> None:
    async def scenario() -> None:
        async with web() as broker, upgraded(broker) as (reader, client):
            connect = encode(Connect("c", V5), V5)
            client.write(frame_head(len(connect)) + connect)
            await until(lambda: "c" in broker._registry.sessions)
            host, port = broker.addresses[1]
            idle, idle_writer = await asyncio.open_connection(host, port)
            await until(lambda: len(broker._web[0]._open) == 2)
            async with asyncio.timeout(PATIENCE_S):
                await broker.__aexit__(None, None, None)
                assert await idle.read() == b""
                assert b"\xe0" in await reader.read()  # the DISCONNECT, before all was cut
            idle_writer.close()
            assert not broker._web[0]._open

    asyncio.run(scenario())


def test_a_large_frame_that_progresses_is_a_sign_of_life() -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(web())
            packet = encode(publish("t", bytes(100_000), qos=1), V5)
            reader, slow = await stack.enter_async_context(upgraded(broker))
            connect = encode(Connect("slow", V5, keepalive=1), V5)
            slow.write(frame_head(len(connect)) + connect + frame_head(len(packet)) + packet[:-1_000])
            silent = await stack.enter_async_context(connected_websocket(broker, "silent", keepalive=1))
            death = asyncio.create_task(silent.ended())
            rest = packet[-1_000:]
            while not death.done():
                slow.write(rest[:1])
                rest = rest[1:]
                await asyncio.wait([death], timeout=0.2)
            assert reasons(await death) == [Reason.KEEPALIVE_TIMEOUT]
            slow.write(rest)
            async with asyncio.timeout(PATIENCE_S):
                connack = await reader.readexactly(2)
                await reader.readexactly(connack[1])
                assert await reader.readexactly(7) == b"\x82\x05" + b"\x40\x03\0\x01\x10"

    asyncio.run(scenario())


def test_http_lasts_no_longer_than_the_time_to_connect_and_websocket_does() -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: broker\r\n\r\n"

    async def scenario() -> None:
        async with web(connect_timeout_s=0.5, metrics_port=0) as broker, connected_websocket(broker, "c") as client:
            for address in broker.addresses[1:]:
                reader, writer = await asyncio.open_connection(*address)
                answers = 0
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(PATIENCE_S):
                        while True:
                            writer.write(request)
                            head = await reader.readuntil(b"\r\n\r\n")
                            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                            await reader.readexactly(size)
                            answers += 1
                writer.transport.abort()
                assert answers > 1
            await client.send(Pingreq())
            await client.expect(Pingresp)

    asyncio.run(scenario())


def test_who_has_not_been_answered_cannot_fill_the_memory() -> None:
    size = 48 << 20

    async def scenario() -> None:
        async with web(connect_timeout_s=1.0) as broker, upgraded(broker) as (_, stranger):
            stranger.write(frame_head(size))
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < size:
                    stranger.write(bytes(1 << 16))
                    sent += 1 << 16
                    await stranger.drain()
            # What was sent lies in the buffers of the kernel, or is what the broker reads of a stranger.
            assert sent < size // 2
            assert broker.snapshot()["totals"]["ended"] == {"connect_timeout": 1}

    asyncio.run(scenario())


def test_connections_that_send_no_request_are_closed_in_time() -> None:
    async def scenario() -> None:
        async with web(connect_timeout_s=0.2) as broker:
            host, port = broker.urls["websocket"].removeprefix("ws://").removesuffix("/mqtt").split(":")
            for beginning in (b"", b"GET /mq", b"GET /mqtt HTTP/1.1\r\nHost: x\r\n"):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(beginning)
                async with asyncio.timeout(PATIENCE_S):
                    assert await reader.read() == b""
                writer.close()

    asyncio.run(scenario())


def test_connections_beyond_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.web.SURPLUS", 0)

    async def scenario() -> None:
        async with web(max_connections=1) as broker, connected_websocket(broker, "c") as first:
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientError):
                    await session.ws_connect(broker.urls["websocket"], protocols=["mqtt"])
            await first.subscribe("t")

    asyncio.run(scenario())


def test_what_is_no_http_is_refused_without_a_trace_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with web() as broker:
            host, port = broker.urls["websocket"].removeprefix("ws://").removesuffix("/mqtt").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(encode(Connect("c", V5), V5) + b"\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
            writer.close()

    asyncio.run(scenario())
    assert "Traceback" not in caplog.text

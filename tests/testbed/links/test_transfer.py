"""The end that listens while links are measured: whom it obeys, and what it makes of what they say."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.engines import Address
from testbed.links.driver import READY_S, Driver, Ends
from testbed.links.errors import LinkError

LOCAL, OTHER = "127.0.0.1", "127.0.0.2"
LIMIT_S = 20.0


def connect(server: Address, own: str) -> socket.socket:
    return socket.create_connection(server, LIMIT_S, source_address=(own, 0))


def line(sock: socket.socket) -> dict[str, Any]:
    with sock.makefile("r") as file:
        told: dict[str, Any] = json.loads(file.readline())
    return told


def test_a_host_that_is_no_device_is_sent_away() -> None:
    async def measure() -> None:
        async with Ends() as ends:
            driver, server = await ends.serve((), LOCAL, 0, "", [OTHER])
            with connect(server, LOCAL) as stranger:
                assert line(stranger)["error"].startswith(f"{LOCAL} is not shaped there; valid: ")
                assert stranger.recv(1) == b""
            with connect(server, OTHER):
                assert await driver.missing([OTHER], READY_S) == []

    asyncio.run(measure())


def test_nobody_can_connect_once_all_have() -> None:
    async def measure() -> None:
        async with Ends() as ends:
            driver, server = await ends.serve((), LOCAL, 0, "", [LOCAL])
            with connect(server, LOCAL):
                assert await driver.missing([LOCAL], READY_S) == []
                with pytest.raises(ConnectionRefusedError):
                    connect(server, LOCAL)

    asyncio.run(measure())


def test_a_device_that_connects_again_takes_its_own_place() -> None:
    async def measure() -> dict[str, Any]:
        async with Ends() as ends:
            driver, server = await ends.serve((), LOCAL, 0, "", [LOCAL])
            with connect(server, LOCAL) as first, connect(server, LOCAL) as second:
                assert await asyncio.to_thread(first.recv, 1) == b""
                assert await driver.missing([LOCAL], READY_S) == []
                job = asyncio.create_task(driver.run("up", {LOCAL: {"bytes": 5}}, LIMIT_S))
                assert await asyncio.to_thread(line, second) == {"do": "up", "bytes": 5}
                second.sendall(b'12345{"began": 1.5}\n')
                return (await job)[LOCAL]

    answer = asyncio.run(measure())
    assert (answer["bytes"], answer["began"]) == (5, 1.5)


@pytest.mark.slow
def test_who_did_not_come_is_named(tmp_path: Path) -> None:
    async def measure() -> list[str]:
        async with Ends(tmp_path / "log") as ends:
            driver, server = await ends.serve((), LOCAL, 0, "")
            await ends.join((), server, "b", "")
            return await driver.missing(["a", "b", "c"], 3.0)

    assert asyncio.run(measure()) == ["a", "c"]


def test_a_port_that_is_taken_is_told_in_a_line() -> None:
    async def serve(port: int) -> None:
        async with Ends() as ends:
            await ends.serve((), LOCAL, port, "")

    with socket.create_server((LOCAL, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LinkError, match=rf"^127\.0\.0\.1:{port}: Address already in use$"):
            asyncio.run(serve(port))


def answering(job: str, values: dict[str, Any], reply: Callable[[socket.socket], None]) -> str:
    """What is said of a device that replies so to a job."""

    async def measure() -> str:
        async with Ends() as ends:
            driver, server = await ends.serve((), LOCAL, 0, "", [LOCAL])
            with connect(server, LOCAL) as device:
                assert await driver.missing([LOCAL], READY_S) == []
                running = asyncio.create_task(driver.run(job, {LOCAL: values}, LIMIT_S))
                await asyncio.to_thread(line, device)
                reply(device)
                device.shutdown(socket.SHUT_WR)
                with pytest.raises(LinkError) as raised:
                    await running
                return str(raised.value)

    return asyncio.run(measure())


def say(*messages: Any) -> Callable[[socket.socket], None]:
    return lambda device: device.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in messages))


DATAGRAMS = {"count": 10, "gap": 0.001, "size": 100}


@pytest.mark.parametrize(
    ("job", "values", "messages", "said"),
    [
        ("down", {"bytes": 5}, [{"first_bytes": 6, "first": 1, "last": 2}], "said first_bytes 6; valid: 1 to 5"),
        ("down", {"bytes": 5}, [{"first_bytes": 5, "first": "now", "last": 2}], "said first 'now'"),
        ("datagrams_down", DATAGRAMS, [{"port": 0}], "said port 0; valid: 1 to 65535"),
        ("datagrams_down", DATAGRAMS, [{"port": 9}, {"received": 11, "first": 1, "last": 2}], "valid: 0 to 10"),
        ("datagrams_up", DATAGRAMS, ["done"], "valid: a JSON object"),
        ("up", {"bytes": 5}, [], "the connection ended"),
    ],
)
def test_a_device_that_lies_is_named(job: str, values: dict[str, Any], messages: list[Any], said: str) -> None:
    told = answering(job, values, say(*messages))
    assert told.startswith(f"measuring: {LOCAL}: {job}: ")
    assert said in told


@pytest.mark.parametrize("times", [[0.1], [0.1, "x"], [0.1, None], "ab"])
def test_times_of_messages_are_numbers(times: Any) -> None:
    def reply(device: socket.socket) -> None:
        device.sendall(bytes(16))
        say({"up": times, "down": [0.1, 0.1]})(device)

    assert "the other end said up" in answering("delay", {"count": 2}, reply)


def test_a_driver_names_a_process_that_has_ended() -> None:
    async def ask() -> None:
        async with Ends() as ends:
            driver, _ = await ends.serve((), LOCAL, 0, "")
            assert isinstance(driver, Driver)
            driver.process.kill()
            await driver.run("up", {"a": {"bytes": 1}}, LIMIT_S)

    with pytest.raises(LinkError, match=r"^measuring: the measuring process ended$"):
        asyncio.run(ask())

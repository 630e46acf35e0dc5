"""The shaping relay, which needs no privileges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.engines import Address
from testbed.links.calibration import calibrate
from testbed.links.errors import LinkError
from testbed.links.profile import parse
from testbed.links.proxy import Proxy


@asynccontextmanager
async def relay(directory: Path, text: str) -> AsyncIterator[tuple[Proxy, Address, asyncio.Queue[bytes]]]:
    """A relay to a listener that answers each stream with all that it got; the queue has what the listener saw."""
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        seen.put_nowait(data)
        writer.write(data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = Address(*server.sockets[0].getsockname()[:2])
    async with Proxy({"agent0": parse(text)}, directory / "log", "") as proxy:
        yield proxy, await proxy.address("agent0", target), seen
    server.close()


@pytest.mark.slow
def test_links_are_what_their_profiles_say(tmp_path: Path) -> None:
    profiles = {"agent0": parse("up=5mbit down=10mbit delay=20ms"), "agent1": parse("up=2mbit+8mbit@1s")}

    async def measure() -> None:
        async with Proxy(profiles, tmp_path / "log") as proxy:
            for _ in range(3):
                checks = await calibrate(proxy, profiles, tmp_path / "log")
                if all(check.ok for check in checks):
                    break
        assert len(checks) == 5
        assert all(check.ok for check in checks), [check.table() for check in checks]

    asyncio.run(measure())


def test_a_stream_arrives_whole_and_its_end_with_it(tmp_path: Path) -> None:
    sent = bytes(range(256)) * 2000

    async def work() -> bytes:
        async with relay(tmp_path, "up=50mbit down=50mbit delay=5ms") as (_, address, seen):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            writer.write_eof()
            back = await reader.read()
            assert await seen.get() == sent
            writer.close()
            return back

    assert asyncio.run(asyncio.wait_for(work(), 30)) == sent


def test_a_client_that_breaks_off_ends_the_other_side_too(tmp_path: Path) -> None:
    async def work() -> bytes:
        async with relay(tmp_path, "up=50mbit down=50mbit") as (_, address, seen):
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"hello")
            await writer.drain()
            writer.close()
            return await seen.get()

    assert asyncio.run(asyncio.wait_for(work(), 30)) == b"hello"


def test_nobody_behind_the_relay_closes_the_connection(tmp_path: Path) -> None:
    async def work() -> bytes:
        async with Proxy({"agent0": parse("up=5mbit")}, tmp_path / "log") as proxy:
            address = await proxy.address("agent0", Address("127.0.0.1", 1))
            reader, writer = await asyncio.open_connection(*address)
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(asyncio.wait_for(work(), 30)) == b""


def test_a_live_change_speeds_up_what_waits(tmp_path: Path) -> None:
    """100 kB take 80 s at the first rate and a tenth of a second at the second."""

    async def work() -> int:
        async with relay(tmp_path, "up=10kbit") as (proxy, address, seen):
            _, writer = await asyncio.open_connection(*address)
            writer.write(bytes(100_000))
            writer.write_eof()
            await proxy.set("agent0", parse("up=10mbit"))
            return len(await seen.get())

    assert asyncio.run(asyncio.wait_for(work(), 30)) == 100_000


def test_all_connections_of_a_client_share_its_link(tmp_path: Path) -> None:
    """Two streams of 100 kB each over 2 Mbit/s take 0.8 s together, and half of that if they did not share."""

    async def work() -> float:
        async with relay(tmp_path, "up=2mbit") as (_, address, seen):
            began = asyncio.get_running_loop().time()
            for _ in range(2):
                _, writer = await asyncio.open_connection(*address)
                writer.write(bytes(100_000))
                writer.write_eof()
            for _ in range(2):
                await seen.get()
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(asyncio.wait_for(work(), 30)) > 0.75


def test_a_congestion_control_that_there_is_not_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with Proxy({"agent0": parse("up=5mbit")}, tmp_path / "log", "nosuch"):
            raise AssertionError

    with pytest.raises(LinkError, match="congestion: 'nosuch'"):
        asyncio.run(work())

"""Packets through the emulator's devices, by real sockets in namespaces of their own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from testbed.links import namespaces
from testbed.links.emulator_process import EmulatorProcess
from testbed.links.profile import parse
from testbed.links.rates import FRAME_BYTES
from tests.testbed.links.needs import needs

pytestmark = needs("tun")

T = TypeVar("T")
SERVER = "10.77.0.1"
FULL_BYTES = 1472  # of UDP in a packet of 1500 bytes
TRIES = 3


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Net:
    """Namespaces of the server and of clients, joined by an emulator."""

    def __init__(self, emulator: EmulatorProcess, beginning: str) -> None:
        self.emulator, self._beginning = emulator, beginning

    def namespace(self, name: str) -> str:
        return f"{self._beginning}-{name}"

    def socket(self, name: str, address: str = "") -> socket.socket:
        """A UDP socket there, bound to an address of it."""

        def made() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            if address:
                sock.bind((address, 7000))
            return sock

        return namespaces.within(self.namespace(name), made)

    async def counts(self, name: str, way: str = "up") -> dict[str, int]:
        counted: dict[str, int] = (await self.emulator.ask({"do": "counters"}))["clients"][name][way]
        return counted

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The counters as soon as something holds for them."""
        async with asyncio.timeout(10):
            while not holds(counted := await self.emulator.ask({"do": "counters"})):
                pass
        return counted


def address(number: int) -> str:
    return f"10.77.0.{10 + number}"


@asynccontextmanager
async def net(directory: Path, *profiles: str) -> AsyncIterator[Net]:
    beginning = f"splitcom-test-{uuid.uuid4().hex[:8]}"
    ends = {"server": SERVER} | {f"c{number}": address(number) for number in range(len(profiles))}
    tables: dict[str, dict[str, Any]] = {
        name: {"namespace": f"{beginning}-{name}", "device": "link0", "address": ends[name]} for name in ends
    }
    server = tables.pop("server")
    for number, (name, profile) in enumerate(zip(tables, profiles, strict=True)):
        tables[name] |= {"profile": parse(profile).table(), "seed": number}
    try:
        for name in ends:
            ip("netns", "add", f"{beginning}-{name}")
        async with EmulatorProcess("tun", directory / "log") as emulator:
            await emulator.ask({"do": "open", "server": server, "clients": tables})
            for name, at in ends.items():
                ip("-n", f"{beginning}-{name}", "addr", "add", f"{at}/16", "dev", "link0")
                ip("-n", f"{beginning}-{name}", "link", "set", "link0", "up")
            yield Net(emulator, beginning)
    finally:
        for name in namespaces.listed(beginning):
            ip("netns", "del", name)


def run(work: Callable[[], Awaitable[T]]) -> T:
    return asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize("way", ["up", "down"])
def test_packets_pass_at_the_rate(tmp_path: Path, way: str) -> None:
    count = 825
    ideal_s = count * FRAME_BYTES * 8 / 10e6

    async def measure() -> float:
        async with net(tmp_path, f"{way}=10mbit queue=10mb") as made:
            ends = {"up": ("c0", "server", SERVER), "down": ("server", "c0", address(0))}[way]
            with made.socket(ends[0]) as source, made.socket(ends[1], ends[2]) as sink:
                source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
                times: list[float] = []
                while len(times) < TRIES and not any(abs(time_s / ideal_s - 1) < 0.1 for time_s in times):
                    times.append(await asyncio.to_thread(flood, source, sink, ends[2], count))
                return min(times, key=lambda time_s: abs(time_s - ideal_s))

    assert run(measure) == pytest.approx(ideal_s, rel=0.1)


def flood(source: socket.socket, sink: socket.socket, to: str, count: int) -> float:
    """The time from when the first of full packets that are sent at once is sent until the last has come."""
    began_s = time.monotonic()
    for number in range(count):
        source.sendto(bytes(FULL_BYTES), (to, 7000))
        if number % 50 == 49:
            time.sleep(0.005)  # the device's own queue is short
    for _ in range(count):
        sink.recv(2048)
    return time.monotonic() - began_s


def test_each_way_of_each_client_has_its_own_delay(tmp_path: Path) -> None:
    async def measure() -> list[tuple[float, float]]:
        async with net(tmp_path, "up.delay=20ms down.delay=50ms", "delay=5ms") as made:
            return [await asyncio.to_thread(fastest, made, number) for number in range(2)]

    (up_s, down_s), (other_up_s, other_down_s) = run(measure)
    assert 0.02 <= up_s < 0.05
    assert 0.05 <= down_s < 0.08
    assert 0.005 <= other_up_s < 0.035
    assert 0.005 <= other_down_s < 0.035


def fastest(made: Net, number: int) -> tuple[float, float]:
    """The shortest times of ten messages there and back, each way on its own."""
    ups, downs = [], []
    with made.socket("server", SERVER) as server, made.socket(f"c{number}", address(number)) as client:
        for _ in range(10):
            began_s = time.monotonic()
            client.sendto(b"there", (SERVER, 7000))
            _, back = server.recvfrom(100)
            turned_s = time.monotonic()
            server.sendto(b"back", back)
            client.recv(100)
            ups.append(turned_s - began_s)
            downs.append(time.monotonic() - turned_s)
    return min(ups), min(downs)


def test_packets_to_nobody_are_counted_and_go_nowhere(tmp_path: Path) -> None:
    async def send() -> tuple[int, int]:
        async with net(tmp_path, "unlimited") as made:
            before = await made.emulator.ask({"do": "counters"})
            with made.socket("server") as source:
                for _ in range(10):
                    source.sendto(b"?", ("10.77.0.99", 7000))
            after = await made.until(lambda counted: counted["strays"] >= before["strays"] + 10)
            return after["strays"] - before["strays"], after["clients"]["c0"]["down"]["packets"]

    strays, down = run(send)
    assert strays >= 10
    assert down < 10


def test_packets_that_the_device_does_not_take_count_as_dropped(tmp_path: Path) -> None:
    async def send() -> int:
        async with net(tmp_path, "unlimited") as made:
            ip("-n", made.namespace("server"), "link", "set", "link0", "down")
            with made.socket("c0") as source:
                for _ in range(10):
                    source.sendto(b"?", (SERVER, 7000))
            counted = await made.until(lambda counted: counted["clients"]["c0"]["up"]["packets"] >= 10)
            return int(counted["clients"]["c0"]["up"]["dropped"])

    assert run(send) >= 10


def test_a_device_that_somebody_removed_keeps_nobody_busy(tmp_path: Path) -> None:
    async def share() -> float:
        async with net(tmp_path, "unlimited", "unlimited") as made:
            ip("-n", made.namespace("c0"), "link", "del", "link0")
            await made.emulator.ask({"do": "counters"})
            used_s = cpu_s(made.emulator)
            await asyncio.sleep(0.5)
            share = (cpu_s(made.emulator) - used_s) / 0.5
            await asyncio.to_thread(fastest, made, 1)  # the others go on
            return share

    assert run(share) < 0.5


def cpu_s(emulator: EmulatorProcess) -> float:
    assert emulator._process is not None
    fields = Path(f"/proc/{emulator._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_the_devices_go_with_the_emulator(tmp_path: Path) -> None:
    async def look() -> list[bool]:
        async with net(tmp_path, "unlimited") as made:
            assert made.emulator._process is not None
            there = [has_device(made.namespace("c0"))]
            made.emulator._process.kill()
            await made.emulator._process.wait()
            return [*there, has_device(made.namespace("c0"))]

    assert run(look) == [True, False]


def has_device(namespace: str) -> bool:
    shown = subprocess.run(["ip", "-n", namespace, "link", "show", "link0"], capture_output=True, check=False)
    return shown.returncode == 0

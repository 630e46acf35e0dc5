"""The back-end that takes every packet through an emulator in user space, with real namespaces and devices."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from testbed.links import namespaces
from testbed.links.calibration import calibrate
from testbed.links.check import Check
from testbed.links.errors import LinkError
from testbed.links.profile import LinkProfile, parse
from testbed.links.tun import Tun
from tests.testbed.links.needs import needs

pytestmark = needs("tun")

T = TypeVar("T")


def links(directory: Path, *texts: str) -> tuple[Tun, dict[str, LinkProfile]]:
    profiles = {f"agent{number}": parse(text) for number, text in enumerate(texts)}
    return Tun(f"t{uuid.uuid4().hex[:8]}", profiles, directory / "log", "cubic"), profiles


def within(tun: Tun, work: Callable[[], Awaitable[T]]) -> T:
    async def go() -> T:
        async with tun:
            return await work()

    result = asyncio.run(go())
    assert not [name for name in namespaces.listed("splitcom-") if name in tun.namespaces]
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    "texts",
    [
        ("up=5mbit down=20mbit delay=30ms jitter=3ms loss=1%",),
        ("up=2mbit down=5mbit", "up=10mbit down=10mbit delay=10ms"),
        ("up=mahimahi:trace down=mahimahi:trace",),
        ("up=4mbit+12mbit@1s down=4mbit+0@500ms+12mbit@1s",),
    ],
)
def test_links_are_what_their_profiles_say(
    texts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trace").write_text("\n".join(str(ms) for ms in range(1, 1001) if ms % 3) + "\n")
    tun, profiles = links(tmp_path, *texts)

    async def measure() -> list[Check]:
        for _ in range(3):
            checks = await calibrate(tun, profiles, tmp_path / "log", congestion="cubic")
            if all(check.ok for check in checks):
                break
        return checks

    checks = within(tun, measure)
    assert {check.what for check in checks if check.client == "agent0"} == {
        "rate",
        *({"delay", "jitter", "loss"} if "loss" in texts[0] else ()),
    }
    assert all(check.ok for check in checks), [check.table() for check in checks]


def send(tun: Tun, name: str, count: int, size: int) -> None:
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range({count}): s.sendto(bytes({size}), ('10.77.0.1', 9))"
    )
    subprocess.run([*tun.client(name), sys.executable, "-c", code], check=True)


def test_packets_are_lost_dropped_and_counted(tmp_path: Path) -> None:
    tun, _ = links(tmp_path, "up=100kbit queue=5000b", "loss=100%")

    async def work() -> dict[str, dict[str, dict[str, int]]]:
        send(tun, "agent0", 20, 972)
        send(tun, "agent1", 20, 972)
        return await tun.counters()

    counted = within(tun, work)
    crowded, lossy = counted["agent0"]["up"], counted["agent1"]["up"]
    assert crowded["dropped"] >= 14
    assert crowded["dropped"] + crowded["packets"] + crowded["waiting_bytes"] // 1014 >= 20
    assert lossy["lost"] >= 20
    assert lossy["packets"] == 0


def test_a_live_change_keeps_what_waits(tmp_path: Path) -> None:
    tun, _ = links(tmp_path, "up=100kbit queue=100kb")

    async def work() -> tuple[int, int]:
        send(tun, "agent0", 20, 972)
        before = (await tun.counters())["agent0"]["up"]["waiting_bytes"]
        await tun.set("agent0", parse("up=100kbit queue=100kb delay=5ms"))
        return before, (await tun.counters())["agent0"]["up"]["waiting_bytes"]

    before, after = within(tun, work)
    assert before > 15_000
    assert after > 10_000


def test_the_same_seed_loses_the_same_packets(tmp_path: Path) -> None:
    async def work() -> int:
        send(tun, "agent0", 200, 100)
        async with asyncio.timeout(10):
            while (counts := (await tun.counters())["agent0"]["up"])["lost"] + counts["packets"] < 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return int(counts["lost"])

    tun, _ = links(tmp_path, "loss=20%")
    first = within(tun, work)
    tun, _ = links(tmp_path, "loss=20%")
    assert abs(within(tun, work) - first) <= 3  # the host's own packets may come in between
    assert 15 <= first <= 70


def test_an_unknown_client_is_an_error_with_the_valid_ones(tmp_path: Path) -> None:
    tun, _ = links(tmp_path, "up=5mbit")

    async def work() -> None:
        await tun.set("agent9", parse("up=1mbit"))

    with pytest.raises(LinkError, match="'agent9' is no client; valid: agent0"):
        within(tun, work)


def test_a_namespace_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    tun, _ = links(tmp_path, "up=5mbit")
    subprocess.run(["ip", "netns", "add", tun.namespaces[0]], check=True)

    async def work() -> None:
        raise AssertionError

    with pytest.raises(LinkError, match="exists already"):
        within(tun, work)
    assert [name for name in namespaces.listed("splitcom-") if name in tun.namespaces] == [tun.namespaces[0]]
    subprocess.run(["ip", "netns", "del", tun.namespaces[0]], check=True)

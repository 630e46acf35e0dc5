"""The back-end that shapes namespaces in the kernel, with real ones."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from testbed.links import namespaces
from testbed.links.calibration import calibrate
from testbed.links.errors import LinkError
from testbed.links.netns import Netns, client_address
from testbed.links.profile import LinkProfile, parse
from tests.testbed.links.needs import needs

pytestmark = needs("netns")


def backend(*texts: str) -> tuple[Netns, dict[str, LinkProfile]]:
    profiles = {f"agent{number}": parse(text) for number, text in enumerate(texts)}
    return Netns(f"t{uuid.uuid4().hex[:8]}", profiles, lambda *_: None, "cubic"), profiles


def shell(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def left(links: Netns) -> list[str]:
    return [name for name in namespaces.listed("splitcom-") if name in links.namespaces]


def test_links_are_what_their_profiles_say(tmp_path: Path) -> None:
    links, profiles = backend("up=5mbit down=20mbit", "up=2mbit+8mbit@1s down=10mbit")

    async def measure() -> None:
        async with links:
            for _ in range(3):
                checks = await calibrate(links, profiles, tmp_path / "log", congestion="cubic")
                if all(check.ok for check in checks):
                    break
        assert [(check.client, check.direction) for check in checks] == [
            (name, way) for name in profiles for way in ("up", "down")
        ]
        assert all(check.ok for check in checks), [check.table() for check in checks]

    asyncio.run(measure())
    assert left(links) == []


def test_every_client_has_a_network_of_its_own() -> None:
    links, _ = backend("up=5mbit", "up=5mbit")

    async def look() -> list[str]:
        async with links:
            return [shell(*links.client(name), "ip", "-br", "addr", "show", "eth0") for name in ("agent0", "agent1")]

    shown = asyncio.run(look())
    for number, text in enumerate(shown):
        assert client_address(number) in text


def test_traffic_is_counted_at_the_link_of_its_client() -> None:
    links, _ = backend("up=10mbit down=10mbit", "up=10mbit down=10mbit")
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(bytes(1000), ('10.77.0.1', 9))"
    )

    async def count() -> tuple[int, int]:
        async with links:
            before = await links.counters()
            shell(*links.client("agent0"), "python3", "-c", send)
            after = await links.counters()
        grown = [after[name]["up"]["l2_bytes"] - before[name]["up"]["l2_bytes"] for name in ("agent0", "agent1")]
        return grown[0], grown[1]

    own, other = asyncio.run(count())
    assert own >= 1000 + 42
    assert other < 1000


def test_connections_have_the_congestion_control_of_the_links() -> None:
    links, _ = backend("up=10mbit")
    links = Netns(links.namespaces[0].split("-")[1], {"agent0": parse("up=10mbit")}, lambda *_: None, "reno")
    ask = (
        "import socket\n"
        "s = socket.create_server(('10.77.0.10', 0)); c = socket.create_connection(s.getsockname())\n"
        "s = socket.socket(); s.setblocking(False); s.connect_ex(('10.77.0.1', 9))\n"
        "print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(bytes(1)).decode())"
    )

    async def look() -> str:
        async with links:
            return shell(*links.client("agent0"), "python3", "-c", ask)

    assert asyncio.run(look()) == "reno\n"


def test_a_live_change_keeps_what_waits() -> None:
    links, _ = backend("up=200kbit queue=100kb")
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for _ in range(40): s.sendto(bytes(1000), ('10.77.0.1', 9))"
    )

    async def change() -> tuple[int, int, int]:
        async with links:
            shell(*links.client("agent0"), "python3", "-c", send)
            before = (await links.counters())["agent0"]["up"]["waiting_bytes"]
            await links.set("agent0", parse("up=250kbit queue=100kb"))
            after = (await links.counters())["agent0"]["up"]
        return before, after["waiting_bytes"], after["dropped"]

    before, after, dropped = asyncio.run(change())
    assert before > 10_000
    assert after > before / 2
    assert dropped == 0


def test_namespaces_that_are_there_already_are_left_alone() -> None:
    links, _ = backend("up=5mbit")
    shell("ip", "netns", "add", links.namespaces[-1])

    async def make() -> None:
        async with links:
            raise AssertionError

    with pytest.raises(LinkError, match="exists already"):
        asyncio.run(make())
    assert left(links) == [links.namespaces[-1]]  # which is not ours
    shell("ip", "netns", "del", links.namespaces[-1])


def test_an_error_in_between_leaves_nothing() -> None:
    links, _ = backend("up=5mbit")

    async def fail() -> None:
        async with links:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(fail())
    assert left(links) == []


def show(links: Netns) -> list[str]:
    """What tc and ip say of the hub, without what differs from one to the next."""
    hub = links.namespaces[0]
    texts = []
    for device in ("c0", "u0"):
        for what in ("qdisc", "class"):
            texts.append(shell("tc", "-n", hub, what, "show", "dev", device))
        texts.append(shell("ip", "-n", hub, "-br", "link", "show", device).split()[0])
    texts.append(shell("tc", "-n", hub, "filter", "show", "dev", "c0", "ingress"))
    return [re.sub(r"direct_packets_stat \d+", "", text) for text in texts]


def test_the_commands_of_a_dry_run_make_the_same_links() -> None:
    links, _ = backend("up=5mbit down=20mbit queue=50ms")

    async def by_netlink() -> list[str]:
        async with links:
            return show(links)

    made = asyncio.run(by_netlink())
    commands = links.commands()
    removal = [command for command in commands if command.startswith("ip netns del")]
    try:
        run_all(commands[: len(commands) - len(removal)])
        assert show(links) == made
    finally:
        run_all(removal)
    assert left(links) == []


def run_all(commands: Sequence[str]) -> None:
    for command in commands:
        shell(*shlex.split(command))


def test_more_clients_than_a_bridge_has_ports_are_refused() -> None:
    with pytest.raises(LinkError, match="400 clients, not 401"):
        Netns("many", {f"c{number}": parse("lte") for number in range(401)}, lambda *_: None)

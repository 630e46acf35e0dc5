"""The back-end that shapes namespaces in the kernel, with real ones."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from testbed.links import namespaces
from testbed.links import operations as op
from testbed.links.base import Counts
from testbed.links.calibration import calibrate
from testbed.links.errors import LinkError
from testbed.links.netns import Netns, client_address
from testbed.links.operations import Operation
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


@pytest.mark.slow
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


def send(place: Sequence[str], to: str, count: int, size: int) -> None:
    """Datagrams of `size` bytes of layer 2, as fast as they go."""
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range({count}): s.sendto(bytes({size - 42}), ('{to}', 9))"
    )
    shell(*place, "python3", "-c", code)


async def counted(links: Netns, name: str, way: str, holds: Callable[[Counts], bool]) -> Counts:
    """The counts of a link as soon as something holds for them."""
    async with asyncio.timeout(10):
        while not holds(counts := (await links.counters())[name][way]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return counts


def passed(packets: int) -> Callable[[Counts], bool]:
    return lambda counts: bool(counts["packets"] == packets)


def test_a_link_counts_its_own_traffic_and_no_other_not_even_at_first_contact() -> None:
    links, _ = backend("up=10mbit down=10mbit", "up=10mbit down=10mbit", "up=10mbit down=10mbit")

    async def count() -> dict[str, dict[str, Counts]]:
        async with links:
            send(links.client("agent0"), "10.77.0.1", 3, 1042)
            send(links.server.prefix, client_address(1), 3, 1042)
            await counted(links, "agent0", "up", passed(3))
            await counted(links, "agent1", "down", passed(3))
            return await links.counters()

    counts = asyncio.run(count())
    assert counts["agent0"]["up"]["l2_bytes"] == counts["agent1"]["down"]["l2_bytes"] == 3 * 1042
    nothing = {"packets": 0, "l2_bytes": 0, "dropped": 0, "waiting_bytes": 0}
    assert counts["agent2"] == {"up": nothing, "down": nothing}


@pytest.mark.parametrize("way", ["up", "down"])
def test_both_ways_count_what_came_out_of_the_queue_and_what_it_dropped(way: str) -> None:
    links, _ = backend(f"{way}=100kbit queue=5000b")

    async def count() -> Counts:
        async with links:
            ends = {"up": (links.client("agent0"), "10.77.0.1"), "down": (links.server.prefix, client_address(0))}
            send(*ends[way], 20, 1000)
            return await counted(links, "agent0", way, lambda counts: counts["waiting_bytes"] == 0)

    counts = asyncio.run(count())
    assert counts["dropped"] >= 13
    assert counts["packets"] + counts["dropped"] == 20
    assert counts["l2_bytes"] == 1000 * counts["packets"]


def test_a_link_that_gets_a_delay_and_loses_it_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another queue in the place of netem, which not every kernel has."""

    def tbf(verb: str, namespace: str, device: str, minor: int, options: str, root: bool) -> Operation:
        place = f"dev {device} root handle {op.NETEM | minor:x}:"
        return Operation(namespace, f"tc qdisc {verb} {place} tbf rate 1gbit burst 64kb limit 64kb")

    monkeypatch.setattr(op, "netem", tbf)
    texts = ("up=10mbit", "up=10mbit up.delay=30ms", "up=5mbit up.delay=40ms", "up=5mbit")
    links, _ = backend("up=10mbit")

    async def count() -> Counts:
        async with links:
            for turn, text in enumerate(texts, 1):
                await links.set("agent0", parse(text))
                send(links.client("agent0"), "10.77.0.1", 3, 1000)
                counts = await counted(links, "agent0", "up", passed(3 * turn))
            return counts

    assert asyncio.run(count()) == {"packets": 12, "l2_bytes": 12_000, "dropped": 0, "waiting_bytes": 0}


def test_clients_reach_the_server_and_nobody_else() -> None:
    links, _ = backend("up=10mbit", "up=10mbit")
    connect = (
        "import socket, sys; s = socket.socket(); s.settimeout(1)\n"
        "try: s.connect((sys.argv[1], 9))\n"
        "except OSError as error: print(type(error).__name__)"
    )

    async def reach() -> list[str]:
        async with links:
            return [
                shell(*links.client("agent0"), "python3", "-c", connect, address).strip()
                for address in ("10.77.0.1", client_address(1))
            ]

    assert asyncio.run(reach()) == ["ConnectionRefusedError", "TimeoutError"]


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

    async def change() -> tuple[int, int, int]:
        async with links:
            send(links.client("agent0"), "10.77.0.1", 40, 1042)
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


@pytest.mark.skipif(shutil.which("ethtool", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no program ethtool")
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


def test_what_the_devices_say_of_segmentation_offload_is_recorded() -> None:
    links, _ = backend("up=5mbit", "down=5mbit")

    async def look() -> Any:
        async with links:
            return (await links.facts())["offloads"]

    assert asyncio.run(look()) == {"gso_max_segs": 1, "devices": 6, "gro": "at the ends"}


def test_a_device_that_has_segmentation_offload_all_the_same_is_refused() -> None:
    class Meddled(Netns):
        def plan(self) -> list[Operation]:
            return [*super().plan(), op.set_gso(self.namespaces[-1], "eth0", 7)]

    links = Meddled(f"t{uuid.uuid4().hex[:8]}", {"agent0": parse("up=5mbit")}, lambda *_: None)

    async def make() -> None:
        async with links:
            raise AssertionError

    with pytest.raises(LinkError, match=r"eth0 of splitcom-.*-client-agent0 has gso_max_segs 7 and not 1"):
        asyncio.run(make())
    assert left(links) == []


def test_links_that_stand_take_no_descriptor_for_each_client() -> None:
    links, _ = backend(*["up=5mbit"] * 10)

    async def count() -> int:
        before = len(os.listdir("/proc/self/fd"))
        async with links:
            return len(os.listdir("/proc/self/fd")) - before

    assert asyncio.run(count()) < 5


def test_more_clients_than_a_bridge_has_ports_are_refused() -> None:
    with pytest.raises(LinkError, match="1022 clients, not 1023"):
        Netns("many", {f"c{number}": parse("lte") for number in range(1023)}, lambda *_: None)

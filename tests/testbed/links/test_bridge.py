"""The operations that join namespaces by a bridge, carried out by netlink and by commands."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.links import bridge, kernel, namespaces
from testbed.links import operations as op
from testbed.links.kernel import Kernel
from testbed.links.operations import Operation
from tests.testbed.links.needs import needs

pytestmark = needs("netns")
ADDRESS, OTHER = "10.1.2.3", "10.1.2.4"


@pytest.fixture
def name() -> Iterator[str]:
    made = f"splitcom-test-{uuid.uuid4().hex[:8]}"
    yield made
    for left in namespaces.listed(made):
        subprocess.run(["ip", "netns", "del", left], check=True)


def operations(name: str) -> list[Operation]:
    """A bridge in `name`, and a device behind a port of it in another namespace."""
    behind = f"{name}-behind"
    return [
        op.add_namespace(name),
        op.add_namespace(behind),
        bridge.add_bridge(name, "br0"),
        bridge.add_veth(name, "p0", "eth0", behind, bridge.mac(ADDRESS)),
        bridge.enslave(name, "p0", "br0"),
        bridge.without_flooding(name, "p0"),
        bridge.add_forwarding(name, "p0", bridge.mac(ADDRESS)),
        op.add_address(behind, "eth0", ADDRESS, 24),
        op.set_up(behind, "eth0"),
        bridge.add_neighbour(behind, "eth0", OTHER, bridge.mac(OTHER)),
    ]


def shown(command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(subprocess.check_output(command.split()))
    return found


def look(name: str) -> dict[str, Any]:
    """What the two namespaces are after the operations."""
    port, master = shown(f"ip -n {name} -d -j link show p0")[0], shown(f"ip -n {name} -d -j link show br0")[0]
    known = [entry for entry in shown(f"bridge -n {name} -j fdb show br br0") if entry["mac"].startswith("02:00:0a")]
    return {
        "master": port["master"],
        "port": {key: port["linkinfo"]["info_slave_data"][key] for key in ("flood", "mcast_flood", "bcast_flood")},
        "learning": port["linkinfo"]["info_slave_data"]["learning"],
        "snooping": master["linkinfo"]["info_data"]["mcast_snooping"],
        "known": [(entry["mac"], entry["ifname"], entry["state"]) for entry in known],
        "behind": shown(f"ip -n {name}-behind -j link show eth0")[0]["address"],
        "neighbours": shown(f"ip -n {name}-behind -j neigh show"),
    }


@pytest.mark.parametrize("way", ["netlink", "commands"])
def test_a_port_passes_on_what_is_known_to_be_behind_it_and_nothing_else(name: str, way: str) -> None:
    async def carry_out() -> None:
        if way == "netlink":
            async with Kernel() as opened:
                await opened.run(operations(name))
            return
        for operation in operations(name):
            await kernel.command(operation.text)

    asyncio.run(carry_out())
    assert look(name) == {
        "master": "br0",
        "port": {"flood": False, "mcast_flood": False, "bcast_flood": False},
        "learning": False,
        "snooping": 0,
        "known": [("02:00:0a:01:02:03", "p0", "static")],
        "behind": "02:00:0a:01:02:03",
        "neighbours": [{"dst": OTHER, "dev": "eth0", "lladdr": "02:00:0a:01:02:04", "state": ["PERMANENT"]}],
    }

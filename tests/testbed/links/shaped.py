"""What tests about devices behind an interface share: devices that are shaped, and what was there before."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping

from testbed.links import namespaces, registry
from testbed.links.host import Host
from testbed.links.profile import parse
from testbed.links.trees import ifb_name
from tests.testbed.links.lan import INTERFACE, Lan, address

IFB = ifb_name(INTERFACE)

FOREIGN = {
    "default": [],
    "tbf": ["qdisc add dev eth0 root tbf rate 50mbit burst 15k limit 100k"],
    "htb": [
        "qdisc add dev eth0 root handle 1: htb default 0x20",
        "class add dev eth0 parent 1: classid 1:20 htb rate 10mbit ceil 20mbit",
        "filter add dev eth0 parent 1: protocol ip prio 5 u32 match ip dst 10.9.9.9/32 flowid 1:20",
    ],
    "ingress": [
        "qdisc add dev eth0 clsact",
        "filter add dev eth0 ingress protocol ip prio 3 u32 match ip src 10.9.9.9/32 flowid 1:1",
        "filter add dev eth0 egress protocol ip prio 4 u32 match ip dst 10.9.9.9/32 flowid 1:1",
    ],
}


def make(lan: Lan, profiles: Mapping[int, str]) -> Host:
    host = Host(INTERFACE, lan.host)

    async def shape() -> None:
        for number, text in profiles.items():
            await host.set(address(number), parse(text))

    asyncio.run(shape())
    return host


def send(namespace: str, to: str, count: int) -> None:
    """Datagrams of 1042 bytes of layer 2, all at once, to a port that nobody listens at."""
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    code += f"for _ in range({count}): s.sendto(bytes(1000), ('{to}', 9))"
    subprocess.run([*namespaces.prefix(namespace), sys.executable, "-c", code], check=True)


def record() -> registry.Owner:
    found = registry.find(f"@{INTERFACE}")
    assert found is not None
    return found

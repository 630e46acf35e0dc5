"""A host and devices behind its interface, each a network namespace: what stands for real devices in tests."""

from __future__ import annotations

import re
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from testbed.links import namespaces
from testbed.links.capabilities import capabilities, why_not
from testbed.links.driver import READY_S, Ends
from testbed.links.rates import WIRE_PER_PAYLOAD

INTERFACE, ADDRESS = "eth0", "10.91.0.1"
TRANSFER_S = 60.0
COUNTERS = re.compile(r"direct_packets_stat \d+")


def shell(text: str) -> str:
    return subprocess.run(text, shell=True, check=True, capture_output=True, text=True).stdout


def address(number: int) -> str:
    return f"10.91.0.{number + 10}"


class Lan:
    """`host` with its interface, and devices, joined by a bridge in a namespace of its own. Gone when it is left.

    Devices send single packets, as they would arrive from a wire. Where it cannot be made, the test skips.
    """

    def __init__(self, devices: int = 1, interface: str = INTERFACE) -> None:
        self.interface = interface
        self._name = f"splitcom-test-{uuid.uuid4().hex[:8]}"
        self._devices = devices
        self.host, self._bridge = f"{self._name}-host", f"{self._name}-lan"

    def device(self, number: int) -> str:
        """The namespace of a device."""
        return f"{self._name}-d{number}"

    def __enter__(self) -> Lan:
        for backend in ("host", "netns"):  # the namespaces are our own
            reason = why_not(backend, {"rate"}, capabilities())
            if reason is not None:
                pytest.skip(reason)
        try:
            for name in (self.host, self._bridge):
                shell(f"ip netns add {name}; ip -n {name} link set lo up")
            shell(f"ip -n {self._bridge} link add br0 type bridge; ip -n {self._bridge} link set br0 up")
            self._join("port", self.host, ADDRESS)
            for number in range(self._devices):
                shell(f"ip netns add {self.device(number)}")
                self._join(f"d{number}", self.device(number), address(number))
                shell(f"ip -n {self.device(number)} link set {self.interface} gso_max_segs 1")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _join(self, port: str, namespace: str, own: str) -> None:
        shell(
            f"ip -n {self._bridge} link add {port} type veth peer name {self.interface} netns {namespace} &&"
            f"ip -n {self._bridge} link set {port} master br0 up &&"
            f"ip -n {namespace} addr add {own}/24 dev {self.interface} && "
            f"ip -n {namespace} link set {self.interface} up"
        )

    def __exit__(self, *_: object) -> None:
        for name in namespaces.listed(f"{self._name}-"):
            shell(f"ip netns del {name}")

    def tc(self, text: str) -> str:
        """Run tc on the host."""
        return shell(f"tc -n {self.host} {text}")

    def shown(self, *devices: str) -> str:
        """What ip and tc say of devices of the host, but for counters."""
        texts = []
        for device in devices or (self.interface,):
            texts.append(shell(f"ip -n {self.host} -d link show {device}").split("gso_max_segs")[1].split()[0])
            for what in ("qdisc show", "class show", "filter show", "filter show parent ffff:"):
                command, _, where = what.partition(" show")
                texts.append(self.tc(f"{command} show dev {device}{where}"))
        return COUNTERS.sub("", "\n".join(texts))

    def links(self) -> list[str]:
        """The names of the host's devices."""
        return re.findall(r"^\d+: ([^:@]+)", shell(f"ip -n {self.host} link"), re.MULTILINE)

    async def rates(self, way: str, sizes: Mapping[int, float]) -> dict[int, float]:
        """Measured bit/s of layer 2 by device, of transfers of so many bytes, all at once."""
        names = {number: f"d{number}" for number in sizes}
        with tempfile.TemporaryDirectory() as folder:
            async with Ends(Path(folder) / "log") as ends:
                driver, server = await ends.serve(namespaces.prefix(self.host), ADDRESS, 0, "cubic")
                for number, name in names.items():
                    await ends.join(namespaces.prefix(self.device(number)), server, name, "cubic")
                assert await driver.missing(names.values(), READY_S) == []
                clients = {name: {"bytes": int(sizes[number])} for number, name in names.items()}
                answers = await driver.run(way, clients, TRANSFER_S)
        found = {}
        for number, name in names.items():
            told = answers[name]
            passed = (told["bytes"] - told["first_bytes"]) * WIRE_PER_PAYLOAD
            found[number] = 8 * passed / (told["last"] - told["first"])
        return found

"""A host and devices behind its interface, each a network namespace: what stands for real devices in tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from testbed.links import namespaces
from testbed.links.capabilities import capabilities, why_not
from testbed.links.rates import WIRE_PER_PAYLOAD

INTERFACE, ADDRESS = "eth0", "10.91.0.1"
READY_S, TRANSFER_S = 20.0, 60.0
COUNTERS = re.compile(r"direct_packets_stat \d+")


def shell(text: str) -> str:
    return subprocess.run(text, shell=True, check=True, capture_output=True, text=True).stdout


def address(number: int) -> str:
    return f"10.91.0.{number + 10}"


class Lan:
    """`host` with its interface, and devices, joined by a bridge in a namespace of its own. Gone when it is left.

    Devices send single packets, as they would arrive from a wire. Where it cannot be made, the test skips.
    """

    def __init__(self, devices: int = 1) -> None:
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
                shell(f"ip -n {self.device(number)} link set {INTERFACE} gso_max_segs 1")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _join(self, port: str, namespace: str, own: str) -> None:
        shell(
            f"ip -n {self._bridge} link add {port} type veth peer name {INTERFACE} netns {namespace} &&"
            f"ip -n {self._bridge} link set {port} master br0 up &&"
            f"ip -n {namespace} addr add {own}/24 dev {INTERFACE} && ip -n {namespace} link set {INTERFACE} up"
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
        for device in devices or (INTERFACE,):
            texts.append(shell(f"ip -n {self.host} -d link show {device}").split("gso_max_segs")[1].split()[0])
            for what in ("qdisc show", "class show", "filter show", "filter show parent ffff:"):
                command, _, where = what.partition(" show")
                texts.append(self.tc(f"{command} show dev {device}{where}"))
        return COUNTERS.sub("", "\n".join(texts))

    def links(self) -> list[str]:
        """The names of the host's devices."""
        return re.findall(r"^\d+: ([^:@]+)", shell(f"ip -n {self.host} link"), re.MULTILINE)

    @contextlib.asynccontextmanager
    async def ends(self) -> AsyncIterator[Ends]:
        """Measuring processes at the host and at every device."""
        started: list[asyncio.subprocess.Process] = []

        async def start(namespace: str, *words: str) -> asyncio.subprocess.Process:
            command = (*namespaces.prefix(namespace), sys.executable, "-m", "testbed.links.transfer", *words)
            pipe = asyncio.subprocess.PIPE
            started.append(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))
            return started[-1]

        try:
            ends = Ends(await start(self.host, "serve", ADDRESS, "cubic"))
            port = str((await ends.answer(READY_S))["port"])
            for number in range(self._devices):
                await start(self.device(number), "join", ADDRESS, port, f"d{number}", "cubic")
            yield ends
        finally:
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()


class Ends:
    """Carries transfers out."""

    def __init__(self, server: asyncio.subprocess.Process) -> None:
        self._server = server

    async def answer(self, limit_s: float) -> dict[str, Any]:
        assert self._server.stdout is not None
        async with asyncio.timeout(limit_s):
            answer: dict[str, Any] = json.loads(await self._server.stdout.readline())
        return answer

    async def rates(self, way: str, sizes: Mapping[int, float]) -> dict[int, float]:
        """Measured bit/s of layer 2 by device, of transfers of so many bytes, all at once."""
        assert self._server.stdin is not None
        clients = {f"d{number}": {"bytes": int(size)} for number, size in sizes.items()}
        self._server.stdin.write(json.dumps({"do": way, "clients": clients}).encode() + b"\n")
        answers = await self.answer(TRANSFER_S)
        rates = {}
        for number in sizes:
            told = answers[f"d{number}"]
            passed = (told["bytes"] - told["first_bytes"]) * WIRE_PER_PAYLOAD
            rates[number] = 8 * passed / (told["last"] - told["first"])
        return rates

"""A server and an agent as processes, with a broker between them, and where wanted a shaped link."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.engines import Address
from testbed.links.base import LinkBackend
from testbed.links.netns import Netns
from testbed.links.none import Unshaped
from testbed.links.profile import parse

END = "tests.broker.link_end"
PATIENCE_S = 250.0

Process = asyncio.subprocess.Process
Reports = dict[str, Any]


@asynccontextmanager
async def processes() -> AsyncIterator[Any]:
    """What starts a process of a module; all that were started are gone afterwards."""
    started: list[Process] = []
    pipe = asyncio.subprocess.PIPE

    async def start(prefix: tuple[str, ...], *words: str) -> Process:
        started.append(
            await asyncio.create_subprocess_exec(*prefix, sys.executable, "-m", *words, stdin=pipe, stdout=pipe)
        )
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def line(process: Process) -> Reports:
    assert process.stdout is not None
    answer: Reports = json.loads(await process.stdout.readline())
    return answer


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) << 10 if found else 0


async def ends(links: LinkBackend, up: int, down: int, *settings: str) -> Reports:
    """Bulk of so many bytes from agent to server and back, the agent behind its link; what each end reports."""
    host = links.server.host
    async with processes() as start:
        broker = await start(links.server.prefix, "broker", "--host", host, "--insecure", "--port", "0", "--events")
        port = (await line(broker))["port"]
        there = await links.address("agent0", Address(host, port))
        server = await start(
            links.server.prefix, END, "server", host, str(port), str(down), str(int(up > 0)), *settings
        )
        agent = await start(
            links.client("agent0"), END, "a", there.host, str(there.port), str(up), str(int(down > 0)), *settings
        )
        async with asyncio.TaskGroup() as group:
            reports = [group.create_task(line(process)) for process in (server, agent)]
        return {
            "server": reports[0].result(),
            "agent": reports[1].result(),
            "broker_peak_bytes": peak_bytes(broker.pid),
        }


def over(profile: str, up: int, down: int, *settings: str) -> Reports:
    """The same over a shaped link; without a profile, on this machine alone."""

    async def main() -> Reports:
        name = f"t{uuid.uuid4().hex[:8]}"
        links: LinkBackend = Unshaped()
        if profile:
            links = Netns(name, {"agent0": parse(profile)}, lambda *_: None, "cubic")
        async with asyncio.timeout(PATIENCE_S), links:
            return await ends(links, up, down, *settings)

    return asyncio.run(main())


def crossed(reports: Reports) -> bool:
    """Whether each end has received what the other sent, over one connection."""
    server, agent = reports["server"], reports["agent"]
    assert server["sent_crc"] or agent["sent_crc"]
    assert server["connections"] == agent["connections"] == 1
    return (server["sent_crc"], server["received_crc"]) == (agent["received_crc"], agent["sent_crc"])

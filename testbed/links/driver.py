"""The measuring processes, and how one drives them: `Ends` starts and ends them, a `Driver` gives the jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from broker.engines import Address
from testbed.links.base import LinkBackend
from testbed.links.errors import LinkError

READY_S, JOIN_S = 20.0, 0.3  # for the first process, and for each that joins
ROUND_S = 5.0  # of a small message there and back over a link that is not shaped, at most
ANSWER_BYTES_MAX = 1 << 24  # of a line: the answers of all clients


class Driver:
    """The serving end.

    `offsets` are seconds by which its clock is ahead of a client's; none for clients that share it.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.offsets: dict[str, float] = {}

    async def answer(self, limit_s: float) -> dict[str, Any]:
        """What it prints next; LinkError where that takes longer."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise LinkError(f"measuring: no answer within {limit_s:.0f} s: a link passes next to nothing") from None
        if not line:
            raise LinkError("measuring: the measuring process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def run(self, what: str, clients: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """A job's answer by client; LinkError for a client that failed."""
        answer = await self._ask(what, clients, limit_s)
        for name, result in answer.items():
            if "error" in result:
                raise LinkError(f"measuring: {name}: {what}: {result['error']}")
        return answer

    async def missing(self, names: Collection[str], wait_s: float) -> list[str]:
        """Who has not connected after so long. Nobody can connect after that."""
        answer = await self._ask("hello", {name: {"wait": wait_s} for name in names}, wait_s)
        return [name for name in names if "error" in answer[name]]

    async def delays(self, clients: Mapping[str, Any], limit_s: float) -> dict[str, dict[str, list[float]]]:
        """By client and way the seconds that small messages took, whatever its clock says."""
        answer = await self.run("delay", clients, limit_s)
        ahead = {name: self.offsets.get(name, 0.0) for name in answer}
        return {
            name: {
                "up": [seconds - ahead[name] for seconds in ways["up"]],
                "down": [seconds + ahead[name] for seconds in ways["down"]],
            }
            for name, ways in answer.items()
        }

    async def synchronise(self, names: Collection[str], count: int) -> dict[str, float]:
        """Find out how far ahead of each client's clock ours is, while no link delays one way more than the other.

        By client the seconds of the fastest of `count` round trips, in which both ways are most nearly equal.
        """
        answer = await self.run("delay", {name: {"count": count} for name in names}, count * ROUND_S)
        fastest = {}
        for name, times in answer.items():
            up, down = min(zip(times["up"], times["down"], strict=True), key=sum)
            self.offsets[name], fastest[name] = (up - down) / 2, up + down
        return fastest

    async def _ask(self, what: str, clients: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        if not clients:
            return {}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, "clients": clients}).encode() + b"\n")
        return await self.answer(limit_s + READY_S)


class Ends:
    """The measuring processes of one measurement, which have ended when this is left.

    What they say goes to `log`; without one a serving process says it on standard error.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._log_path = log
        self._log: BinaryIO | None = None
        self._started: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Ends:
        if self._log_path is not None:
            self._log = self._log_path.open("ab")
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._started:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.gather(*(process.wait() for process in self._started))
        if self._log is not None:
            self._log.close()

    async def serve(
        self, prefix: Sequence[str], host: str, port: int, congestion: str, devices: Collection[str] = ()
    ) -> tuple[Driver, Address]:
        """Start the serving end, and where it listens; LinkError where it cannot."""
        words = ("serve", host, str(port), congestion, *devices)
        pipe = asyncio.subprocess.PIPE
        driver = Driver(await self._start(prefix, words, stdin=pipe, stdout=pipe, stderr=self._log))
        ready = await driver.answer(READY_S)
        if "error" in ready:
            raise LinkError(ready["error"])
        return driver, Address(ready["host"], ready["port"])

    async def join(self, prefix: Sequence[str], server: Address, name: str, congestion: str) -> None:
        """Start an end that joins."""
        words = ("join", server.host, str(server.port), name, congestion)
        await self._start(prefix, words, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)

    async def _start(self, prefix: Sequence[str], words: Sequence[str], **streams: Any) -> asyncio.subprocess.Process:
        command = (*prefix, sys.executable, "-m", "testbed.links.transfer", *words)
        process = await asyncio.create_subprocess_exec(
            *command, **streams, limit=ANSWER_BYTES_MAX, start_new_session=True
        )
        self._started.append(process)
        return process


@contextlib.asynccontextmanager
async def both_ends(backend: LinkBackend, names: Collection[str], log: Path, congestion: str) -> AsyncIterator[Driver]:
    """A measuring process for each client of a back-end, and one in the server's place."""
    async with Ends(log) as ends:
        driver, server = await ends.serve(backend.server.prefix, backend.server.host, 0, congestion)
        for name in names:
            await ends.join(backend.client(name), await backend.address(name, server), name, congestion)
        wait_s = READY_S + JOIN_S * len(names)
        missing = await driver.missing(names, wait_s)
        if missing:
            raise LinkError(f"measuring: {', '.join(missing)} did not connect within {wait_s:g} s; see {log}")
        yield driver

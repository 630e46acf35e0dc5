"""The processes of a measurement: starting a load, hearing what it found, and making sure that it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.errors import BrokerError
from testbed.bench.broker_job import Job

LIMIT_S = 120.0
"""The longest time until a load says its next line."""

END_S = 10.0
"""The longest time from a load's last line to its end."""


class Load:
    """A running load process, which says one JSON object a line; its last one is its result."""

    def __init__(self, role: str, process: asyncio.subprocess.Process) -> None:
        self._role, self._process = role, process

    async def line(self) -> dict[str, Any]:
        """What it says next; BrokerError with its last words where it ends or says nothing for too long."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(LIMIT_S):
                if line := await self._process.stdout.readline():
                    said: dict[str, Any] = json.loads(line)
                    return said
                errors = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
        except TimeoutError:
            raise BrokerError(f"{self._role}: nothing for {LIMIT_S:g} s") from None
        last = errors[-1].removeprefix("error: ") if errors else "it ended without a word"
        raise BrokerError(f"{self._role}: {last}")

    async def go_on(self) -> None:
        """Let a load that waits for a line go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()

    async def ended(self) -> None:
        """Wait until it has ended, by itself or not."""
        await self._process.wait()

    def end(self) -> None:
        """Close its standard input, which ends a load that has no end of its own."""
        assert self._process.stdin is not None
        self._process.stdin.close()


@asynccontextmanager
async def load(role: str, job: Job) -> AsyncIterator[Load]:
    """A load process in that role; it has ended when the context is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "testbed.bench.broker_load", role, job.encode()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=[job.credit] if job.credit >= 0 else [],
        env=_environment(),
    )
    running = Load(role, process)
    try:
        yield running
        running.end()
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        raise BrokerError(f"{role}: not ended {END_S:g} s after its last line") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def both(sender: str, receiver: str, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run two loads, the second of which grants credit to the first; the result of each."""
    take, grant = os.pipe()
    try:
        async with load(receiver, replace(job, credit=grant)) as second:
            # Only the process that grants may hold this end: its death is then the end of the pipe.
            os.close(grant)
            grant = -1
            async with load(sender, replace(job, credit=take)) as first, asyncio.TaskGroup() as group:
                results = [group.create_task(part.line()) for part in (first, second)]
        return results[0].result(), results[1].result()
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    finally:
        os.close(take)
        if grant >= 0:
            os.close(grant)


def _environment() -> dict[str, str]:
    """Ours, with these packages on the path wherever the command was called."""
    root = str(Path(__file__).resolve().parents[2])
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}

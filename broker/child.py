"""A broker's program in a child process, which has ended when whoever started it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

END_S = 3.0
_EVENT_BYTES = 64 << 20


@asynccontextmanager
async def started(command: list[str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process that has ended when the context is left; what it logs is appended to `log`.

    It gets a session of its own, so that Ctrl-C in a terminal reaches us first and the broker goes last. Standard
    input is a pipe that closes with us: a broker of ours ends then, however we end.
    """
    events = "--events" in command
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if events else file,
            stderr=file,
            env=_environment(),
            start_new_session=True,
            limit=_EVENT_BYTES,
        )
    try:
        yield process
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL where that does not end it within END_S."""
    for send in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            send()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()


def tail(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _environment() -> dict[str, str]:
    """Ours, without settings meant for a broker that the user starts, and with this package on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPLITCOM_BROKER_")}
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    return environment

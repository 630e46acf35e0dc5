"""A program that knows nothing of us ends with standard input, with a signal, or by itself."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from broker import attached

READY = "import signal, sys, time; print('up', flush=True); "


async def started(code: str) -> asyncio.subprocess.Process:
    """The program, attached to us and running."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "broker.attached", sys.executable, "-c", READY + code]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize(("code", "status"), [("sys.exit(3)", 3), ("signal.raise_signal(9)", 137), ("", 0)])
def test_the_exit_status_is_the_commands(code: str, status: int) -> None:
    async def scenario() -> None:
        assert await (await started(code)).wait() == status

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["standard input", "SIGTERM"])
@pytest.mark.parametrize("deaf", [False, True])
def test_the_command_ends_with_us(how: str, deaf: bool) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""

    async def scenario() -> None:
        process = await started(f"{ignore}print('deaf', flush=True); time.sleep(600)")
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"deaf\n"
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        async with asyncio.timeout(3 * attached.END_S):
            assert await process.stdout.read() == b""  # the command had the other end of it as well
            await process.wait()

    asyncio.run(scenario())

"""One run of a study as a process that ends with the study, and the CPU time that it took."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "testbed.study.child")
PATIENCE_S = 15.0  # a child whose standard input has closed ends by itself within 10 s


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (negative: a signal), CPU seconds of it and all its children."""

    status: int
    cpu_s: float


async def run(arguments: Sequence[str], log: Path, threads: int) -> Ended:
    """Run `splitcom` with these arguments to its end, its standard error in `log`; when cancelled, end it first."""
    process = _start(arguments, log, threads)
    assert process.stdin is not None
    handle = os.pidfd_open(process.pid)
    try:
        await _ended(handle)
    except BaseException:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await _ended(handle)
        raise
    finally:
        # Nothing happens to a process that has ended; for one that has not, nobody waits any longer.
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        result = _reap(process)
        os.close(handle)
        process.stdin.close()
    return result


def last_words(log: Path, status: int) -> str:
    """Why a process failed, as far as its log tells."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [text for line in lines if (text := line.strip(" |+-"))]  # the frame that a group of errors is drawn in
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
    how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{said[-1]} ({how})" if said else how


def _start(arguments: Sequence[str], log: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start it in a session of its own: a terminal's Ctrl-C is for the study, which ends its children itself.

    Settings from the environment are no part of a plan, so the process does not see any.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPLITCOM_") or k == "SPLITCOM_CACHE"}
    environment |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as errors:
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )


async def _ended(handle: int) -> None:
    """Wait until the process of a pidfd has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)


def _reap(process: subprocess.Popen[bytes]) -> Ended:
    """Wait by hand, because only `wait4` tells what one child has used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, usage.ru_utime + usage.ru_stime)

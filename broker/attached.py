"""Runs a program that knows nothing of us so that it ends with us: `python -m broker.attached COMMAND...`.

Standard input is a pipe from whoever started this: when it closes the command is ended, as it is by a signal to end.
The exit status is the command's. A signal that the kernel sends for a dead parent would not do: it is lost when the
command gives up privileges, as mosquitto does.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence

from broker.program import run

END_S = 2.0  # whoever started this waits a little longer before it kills


async def attached(command: Sequence[str]) -> int:
    """Run a command to its end, which is ours; what a shell would say its exit status was."""
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        status = await process.wait()
    finally:
        for end in (process.terminate, process.kill):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    end()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_S):
                        await process.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(run(attached(sys.argv[1:]), attached=True))

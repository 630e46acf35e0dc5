"""One command at a time changes what is recorded about interfaces."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator

from testbed.links import registry
from testbed.links.errors import LinkError

WAIT_S = 10.0  # for another command that changes links
TRY_S = 0.05


@contextlib.asynccontextmanager
async def alone() -> AsyncIterator[None]:
    """No other command changes what is recorded meanwhile; LinkError where one does for too long."""
    descriptor = os.open(registry.folder(), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(int(WAIT_S / TRY_S)):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(TRY_S)
        else:
            raise LinkError(f"another command has been changing links for {WAIT_S:g} s; valid: when it has ended")
        yield
    finally:
        os.close(descriptor)

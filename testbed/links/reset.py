"""What killed runs left behind, removed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

from testbed.links import namespaces
from testbed.links import operations as op
from testbed.links.host import Host
from testbed.links.kernel import Kernel, command
from testbed.links.registry import PREFIX, Owner


async def reset(owners: Iterable[Owner]) -> list[str]:
    """Remove what these owners made and restore what they found; what was done, or could not be, a line each."""
    done: list[str] = []
    there = set(namespaces.listed(PREFIX))
    async with Kernel() as kernel:
        for owner in owners:
            left = [name for name in owner.namespaces if name in there]
            for name in left:
                await _remove(kernel, name)
            if owner.backend == "host":
                told = await Host(owner.interface).remove()
                done.append(f"interface {owner.interface}: " + ("; ".join(told) or "as it was before"))
            else:
                done.append(f"run {owner.name}: {len(left)} namespaces removed")
            owner.forget()
    return done


async def orphans(there: Iterable[str], owners: Iterable[Owner]) -> list[str]:
    """Of the namespaces that were there, those of ours that no record knows, removed: their records were lost."""
    known = {name for owner in owners for name in owner.namespaces}
    left = [name for name in namespaces.listed(PREFIX) if name in set(there) - known]
    async with Kernel() as kernel:
        for name in left:
            await _remove(kernel, name)
    return [f"namespace {name}: removed" for name in left]


async def _remove(kernel: Kernel, name: str) -> None:
    """End what still runs in a namespace, for it would go on without a name, and remove it."""
    for pid in (await command(f"ip netns pids {name}")).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    await kernel.run([op.delete_namespace(name)])

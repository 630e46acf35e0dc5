"""What killed runs left behind, removed. What needs pyroute2 is imported when it is used: relays need none of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable

from testbed.links import namespaces
from testbed.links import operations as op
from testbed.links.registry import PREFIX, Owner

END_S = 5.0
_POLL_S = 0.01


async def reset(owner: Owner) -> str:
    """Remove what an owner made and restore what it found; what was done, a line. LinkError where it could not be."""
    if owner.backend == "host":
        from testbed.links.host import Host

        told = await Host(owner.interface).remove()
        return f"interface {owner.interface}: " + ("; ".join(told) or "as it was before")
    left = _left(owner)
    await remove(left)
    owner.forget()
    return f"run {owner.name}: {len(left)} namespaces removed"


async def planned(owner: Owner) -> list[str]:
    """The commands that `reset` would come to now."""
    if owner.backend == "host":
        from testbed.links.host import Host

        return await Host(owner.interface).plan_removal()
    return await planned_removal(_left(owner))


def orphans(there: Iterable[str], owners: Iterable[Owner], unreadable: Iterable[str]) -> list[str]:
    """Of the namespaces that were there, those of ours that are still there and that no record knows.

    `unreadable` names the records that may know them and cannot be read.
    """
    known = {name for owner in owners for name in owner.namespaces}
    maybe = tuple(f"{PREFIX}{name}-" for name in unreadable)
    return [name for name in namespaces.listed(PREFIX) if name in set(there) - known and not name.startswith(maybe)]


async def remove(names: Iterable[str]) -> None:
    """Remove namespaces, with what still runs in them: it would go on without a name."""
    for name in names:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await _end_all(name)
        await _command(op.delete_namespace(name).text)


async def planned_removal(names: Iterable[str]) -> list[str]:
    """The commands that `remove` would come to now."""
    texts = []
    for name in names:
        texts += [f"kill -KILL {pid}" for pid in await _pids(name)]
        texts.append(op.delete_namespace(name).text)
    return texts


def _left(owner: Owner) -> list[str]:
    return [name for name in namespaces.listed(PREFIX) if name in owner.namespaces]


async def _end_all(namespace: str) -> None:
    while pids := await _pids(namespace):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)


async def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in (await _command(f"ip netns pids {namespace}")).split()]


async def _command(text: str) -> str:
    from testbed.links.kernel import command

    return await command(text)

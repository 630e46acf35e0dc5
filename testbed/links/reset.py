"""What killed runs left behind, removed."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.links import namespaces
from testbed.links import operations as op
from testbed.links.host import Host
from testbed.links.kernel import Kernel
from testbed.links.registry import PREFIX, Owner


async def reset(owners: Iterable[Owner]) -> list[str]:
    """Remove what these owners made and restore what they found; what was done, a line each."""
    done: list[str] = []
    there = set(namespaces.listed(PREFIX))
    async with Kernel() as kernel:
        for owner in owners:
            left = [name for name in owner.namespaces if name in there]
            await kernel.run(op.delete_namespace(name) for name in left)
            if owner.backend == "host":
                told = await Host(owner.interface).remove()
                done.append(f"interface {owner.interface}: " + ("; ".join(told) or "as it was before"))
            else:
                done.append(f"run {owner.name}: {len(left)} namespaces removed")
            owner.forget()
    return done


async def orphans(owners: Iterable[Owner]) -> list[str]:
    """Namespaces of ours that no record knows, removed: their records were lost."""
    known = {name for owner in owners for name in owner.namespaces}
    left = [name for name in namespaces.listed(PREFIX) if name not in known]
    async with Kernel() as kernel:
        await kernel.run(op.delete_namespace(name) for name in left)
    return [f"namespace {name}: removed" for name in left]

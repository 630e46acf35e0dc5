"""Links by their names from outside: those of runs that go on, and those of devices behind an interface."""

from __future__ import annotations

from typing import Any

from testbed.links import namespaces, registry
from testbed.links import profile as profiles
from testbed.links.commands import ask
from testbed.links.errors import LinkError
from testbed.links.host import Host
from testbed.links.kernel import Kernel
from testbed.links.registry import PREFIX, Owner
from testbed.links.reset import orphans, reset

Result = dict[str, Any]


async def show(target: str | None) -> Result:
    """Every owner of links with its links and counters, or one of them; LinkError for a name that there is not."""
    owners = registry.owners()
    if target is not None:
        owners = [owner for owner in owners if target in (owner.name, owner.interface)]
        if not owners:
            raise LinkError(f"no links of {target!r}; valid: {_names()}")
    return {"owners": [await _show(owner) for owner in owners]}


async def _show(owner: Owner) -> Result:
    if owner.backend == "host":
        shown = await Host(owner.interface).show()
        return {
            "name": owner.interface,
            "backend": "host",
            "links": {name: each["profile"] for name, each in shown.items()},
            "counters": {name: each["counters"] for name, each in shown.items()},
        }
    if not owner.alive:
        note = f"left by process {owner.pid}, which has ended; `splitcom link reset` removes it"
        return {"name": owner.name, "backend": owner.backend, "note": note}
    answer = await ask(owner.socket, {"do": "show"})
    return {"name": owner.name, "backend": owner.backend, "links": answer["links"], "counters": answer["counters"]}


async def set_link(target: str, text: str, force: bool, dry_run: bool) -> Result:
    """Give one link a profile; with `dry_run` only tell what would be run."""
    name, client = _split(target)
    profile = profiles.parse(text)
    owner = registry.find(name)
    notes: list[str] = []
    if owner is not None and owner.alive:
        command = {"do": "set", "client": client, "profile": profile.table()}
        if dry_run:
            return {"done": [f"(run {name}) set {client}: {profile.text()}"]}
        await ask(owner.socket, command)
    else:
        await _interface(name)
        if dry_run:
            return {"done": [operation.text for operation in await Host(name).plan(client, profile, force)]}
        notes = await Host(name).set(client, profile, force)
    return {"done": [f"{target}: {profile.text()}", *notes]}


async def clear_link(target: str) -> Result:
    """Take the shaping from one link, or from an interface with all its devices."""
    name, separator, client = target.partition("/")
    owner = registry.find(name)
    if owner is not None and owner.alive:
        if not separator:
            client = "all"
        await ask(owner.socket, {"do": "set", "client": client, "profile": profiles.UNSHAPED.table()})
        notes = []
    else:
        await _interface(name)
        notes = await (Host(name).clear(client) if separator else Host(name).remove())
    return {"done": [f"{target}: not shaped", *notes]}


async def reset_all() -> Result:
    """Remove what no living process owns."""
    there = namespaces.listed(PREFIX)  # before the owners: a run that begins meanwhile is not in it
    owners = registry.owners()
    done = await reset(owner for owner in owners if not owner.alive)
    return {"done": done + await orphans(there, owners)}


def _split(target: str) -> tuple[str, str]:
    name, separator, client = target.partition("/")
    if not separator or not name or not client:
        raise LinkError(f"{target!r} is no link; valid: RUN/CLIENT, RUN/all or INTERFACE/ADDRESS")
    return name, client


async def _interface(name: str) -> None:
    """LinkError unless there is an interface of this name."""
    async with Kernel() as kernel:
        devices = await (await kernel.within("")).devices()
    if name not in devices:
        raise LinkError(f"{name!r} is neither a run that goes on nor an interface; valid: {_names(devices)}")


def _names(devices: list[str] | None = None) -> str:
    names = [owner.interface or owner.name for owner in registry.owners()]
    return ", ".join([*names, *(devices or [])]) or "none here"

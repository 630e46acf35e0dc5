"""Links by their names from outside: those of runs that go on, and those of devices behind an interface.

Results are plain data for `--json`. What does not stop the rest is among its `complaints`, each naming a record's file.
What needs pyroute2 is imported when it is used: runs over relays are controlled without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from testbed.links import namespaces, registry
from testbed.links import profile as profiles
from testbed.links.commands import ask
from testbed.links.errors import LinkError
from testbed.links.links_config import EVERY
from testbed.links.registry import INTERFACE, PREFIX, Owner

if TYPE_CHECKING:
    from testbed.links.host import Host

Result = dict[str, Any]
Say = Callable[[str], None]


async def show(target: str | None) -> Result:
    """Every owner of links with its links and counters, or one of them; LinkError for a name that there is not."""
    owners, unreadable = registry.owners(), registry.unreadable()
    if target is not None:
        owners = [owner for owner in owners if target in (owner.name, owner.interface)]
        unreadable = {name: text for name, text in unreadable.items() if name in (target, INTERFACE + target)}
        if not owners and not unreadable:
            raise LinkError(f"no links of {target!r}; valid: {_listed(_names(registry.owners()))}")
    complaints = list(unreadable.values())
    shown = []
    for owner in owners:
        with _collected(owner, complaints):
            shown.append(await _show(owner))
    return {"owners": shown, "complaints": complaints}


async def _show(owner: Owner) -> Result:
    if owner.backend == "host":
        links = await _host(owner.interface).show()
        return {
            "name": owner.interface,
            "backend": "host",
            "links": {name: each["profile"] for name, each in links.items()},
            "counters": {name: each["counters"] for name, each in links.items()},
            "notes": {name: each["note"] for name, each in links.items() if each["note"]},
        }
    told = {"name": owner.name, "backend": owner.backend}
    if not owner.alive:
        return told | {"note": f"left by process {owner.pid}, which has ended; `splitcom link reset` removes it"}
    if not owner.socket.exists():
        return told | {"note": f"process {owner.pid} makes, measures or removes them and takes no commands"}
    answer = await ask(owner.socket, {"do": "show"})
    return told | {"links": answer["links"], "counters": answer["counters"]}


async def set_link(target: str, text: str, force: bool = False, dry_run: bool = False) -> Result:
    """Give one link a profile; with `dry_run` only the commands of it are returned."""
    name, client = split(target, "RUN/CLIENT, RUN/all or INTERFACE/ADDRESS")
    profile = profiles.parse(text)
    owner = await _owner(name)
    if owner is not None:
        answer = await _set(owner, client, profile, dry_run)
        return {"commands": answer["commands"]} if dry_run else {"done": [f"{target}: {profile.text()}"]}
    host = _host(name)
    if dry_run:
        return {"commands": [operation.text for operation in await host.plan(client, profile, force)]}
    return {"done": [f"{target}: {profile.text()}", *await host.set(client, profile, force)]}


async def hold_link(target: str, text: str, force: bool, started: Callable[[Result], None], say: Say) -> None:
    """Give a device's link a profile, play its rates if they vary, and stay until cancelled; then it is as before.

    `started` is told what was done, `say` what has to be said afterwards.
    """
    from testbed.links.hold import Hold

    name, address, profile = await _to_hold(target, text)
    async with Hold(_host(name), say, force) as hold:
        notes = await hold.set(address, profile)
        started({"done": [f"{target}: {profile.text()}, held until Ctrl-C", *notes]})
        await hold.wait()


async def planned_hold(target: str, text: str, force: bool) -> Result:
    """The commands that `hold_link` would come to now; what is played over netlink is told in brackets."""
    from testbed.links.hold import played

    name, address, profile = await _to_hold(target, text)
    operations = await _host(name).plan(address, profile, force, holding=True)
    return {"commands": [operation.text for operation in operations] + played(profile)}


async def _to_hold(target: str, text: str) -> tuple[str, str, profiles.LinkProfile]:
    name, address = split(target, "INTERFACE/ADDRESS with --hold")
    profile = profiles.parse(text)
    if await _owner(name) is not None:
        raise LinkError(f"{name!r} is a run, which plays the rates of its links itself; valid: without --hold")
    return name, address, profile


async def clear_link(target: str, dry_run: bool = False) -> Result:
    """Take the shaping from one link, or from all of a run or an interface; `dry_run` as for `set_link`."""
    name, client = split(target, "RUN, RUN/CLIENT, INTERFACE or INTERFACE/ADDRESS") if "/" in target else (target, "")
    owner = await _owner(name)
    if owner is not None:
        answer = await _set(owner, client or EVERY, profiles.UNSHAPED, dry_run)
        return {"commands": answer["commands"]} if dry_run else {"done": [f"{target}: not shaped"]}
    host = _host(name)
    if dry_run:
        return {"commands": await host.plan_removal(client or None)}
    return {"done": [f"{target}: not shaped", *await (host.clear(client) if client else host.remove())]}


async def reset_all(dry_run: bool = False) -> Result:
    """Remove what no living process owns; `dry_run` as for `set_link`."""
    from testbed.links import reset

    there = namespaces.listed(PREFIX)  # before the owners: a run that begins meanwhile is not in it
    owners, unreadable = registry.owners(), registry.unreadable()
    complaints = list(unreadable.values())
    done: list[str] = []
    for owner in owners:
        if not owner.alive:
            with _collected(owner, complaints):
                done += await reset.planned(owner) if dry_run else [await reset.reset(owner)]
    lost = reset.orphans(there, owners, unreadable)
    if dry_run:
        return {"commands": done + await reset.planned_removal(lost), "complaints": complaints}
    for name in lost:
        try:
            await reset.remove([name])
            done.append(f"namespace {name}: removed")
        except LinkError as error:
            complaints.append(f"namespace {name}: {error}")
    return {"done": done, "complaints": complaints}


def prefix(target: str) -> tuple[str, ...]:
    """What has to stand before a command to run it at an end of the links of a run that goes on.

    The ends are its clients, and `server` (and `hub`, where there is one). LinkError where they have no place of their
    own.
    """
    name, end = split(target, "RUN/CLIENT or RUN/server")
    owner = registry.find(name)
    if owner is None or not owner.alive:
        valid = _listed([f"{each.name}/CLIENT" for each in registry.owners() if each.alive and each.namespaces])
        raise LinkError(f"{name!r} is no run that goes on and has emulated links; valid: {valid}")
    if not owner.namespaces:
        raise LinkError(
            f"the clients of {name} are in this machine's own network, since its back-end is {owner.backend}; "
            "valid: a run over netns or tun"
        )
    beginning = f"{PREFIX}{name}-"
    ends = {each.removeprefix(beginning).removeprefix("client-"): each for each in owner.namespaces}
    if end not in ends:
        raise LinkError(f"{end!r} is no client of run {name}; valid: {', '.join(sorted(ends))}")
    return namespaces.prefix(ends[end])


def split(target: str, valid: str) -> tuple[str, str]:
    """The two halves of a target; LinkError, with what is valid, where it has not got them."""
    name, _, client = target.partition("/")
    if not name or not client:
        raise LinkError(f"{target!r} is no link; valid: {valid}")
    return name, client


async def _set(owner: Owner, client: str, profile: profiles.LinkProfile, dry: bool) -> Result:
    return await ask(owner.socket, {"do": "set", "client": client, "profile": profile.table(), "dry": dry})


async def _owner(name: str) -> Owner | None:
    """The run that goes on of this name, or None for an interface; LinkError where it is neither."""
    owner = registry.find(name)
    if owner is not None and owner.alive:
        return owner
    devices = await _devices()
    if name not in devices:
        if owner is not None:
            raise LinkError(
                f"run {name} was left by process {owner.pid}, which has ended; valid: `splitcom link reset`"
            )
        names = _names(each for each in registry.owners() if each.alive)
        raise LinkError(
            f"{name!r} is neither a run that goes on nor an interface; valid: {_listed([*names, *devices])}"
        )
    return None


async def _devices() -> list[str]:
    """The interfaces of this machine; none where they could not be shaped anyway."""
    try:
        from testbed.links.kernel import Kernel
    except ImportError:
        return []
    async with Kernel() as kernel:
        return await (await kernel.within("")).devices()


def _host(interface: str) -> Host:
    from testbed.links.host import Host

    return Host(interface)


@contextlib.contextmanager
def _collected(owner: Owner, complaints: list[str]) -> Iterator[None]:
    """What goes wrong with an owner becomes a complaint; nothing does if it has gone meanwhile."""
    try:
        yield
    except (LinkError, OSError) as error:
        text = str(error) if isinstance(error, LinkError) else error.strerror
    except (KeyError, TypeError, ValueError) as error:
        text = f"no record that splitcom wrote: {type(error).__name__} {error}"
    else:
        return
    if owner.path.exists():
        complaints.append(f"{owner.path}: {' '.join(str(text).split())}")


def _names(owners: Iterable[Owner]) -> list[str]:
    return [owner.interface or owner.name for owner in owners]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none here"

"""Who has links on this machine: a record per owner, with what it made, so that a crash leaves nothing unknown.

Records lie in /run/splitcom (root) or the user's runtime directory. A record names the process that made it; once that
has ended, what the record lists may be removed. Shaping of real interfaces has no process and lasts until removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from testbed.links.errors import LinkError
from testbed.links.namespaces import listed, refuse

PREFIX = "splitcom-"  # of everything that is made
INTERFACE = "@"  # before an interface's name in the name of its record, which no run's name has
_TYPES = {
    "name": str,
    "backend": str,
    "pid": int,
    "started": int,
    "namespaces": list,
    "interface": str,
    "before": dict,
    "links": dict,
}


def folder() -> Path:
    """Where records are, made if need be."""
    if os.geteuid() == 0:
        path = Path("/run/splitcom")
    elif "XDG_RUNTIME_DIR" in os.environ:
        path = Path(os.environ["XDG_RUNTIME_DIR"]) / "splitcom"
    else:
        path = Path(tempfile.gettempdir()) / f"splitcom-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@dataclass(frozen=True)
class Owner:
    """One record: `name` of the run or interface, the process (0: none), and what it made.

    `before` is what has to be restored, of an interface that was there already.
    """

    name: str
    backend: str
    pid: int = 0
    started: int = 0
    namespaces: tuple[str, ...] = ()
    interface: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Any] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether the process that made the record still runs."""
        return self.pid != 0 and start_of(self.pid) == self.started

    @property
    def path(self) -> Path:
        """The record's file."""
        return folder() / f"{self.name}.json"

    @property
    def socket(self) -> Path:
        """Where the process listens for commands."""
        return folder() / f"{self.name}.sock"

    def write(self, new: bool = False) -> None:
        """Write the record, whole or not at all, to disk; LinkError where it has to be `new` and is not."""
        scratch = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with scratch.open("w") as file:
                json.dump(asdict(self), file)
                file.flush()
                os.fsync(file.fileno())
            if new:
                os.link(scratch, self.path)
            else:
                scratch.replace(self.path)
        except FileExistsError:
            raise LinkError(f"links of the name {self.name!r} are being made by another process") from None
        finally:
            scratch.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the record."""
        self.path.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)


@contextlib.contextmanager
def owned(name: str, backend: str, namespaces: tuple[str, ...] = ()) -> Iterator[Owner]:
    """A record of this process for the length of a block in which the namespaces are made and removed.

    Where the block leaves some of them the record stays, for `reset` to go by. LinkError where a process that lives has
    that name, one that died left something, or a namespace is there already: it is somebody else's.
    """
    owner = _claim(name, backend, namespaces)
    try:
        yield owner
    finally:
        if not set(namespaces) & set(listed(PREFIX)):
            owner.forget()


def _claim(name: str, backend: str, namespaces: tuple[str, ...]) -> Owner:
    there = find(name)
    if there is not None and there.alive:
        raise LinkError(f"links of the name {name!r} are in use by process {there.pid}; valid: another run name")
    if there is not None:
        raise LinkError(
            f"links of the name {name!r} are left from process {there.pid}; `splitcom link reset` ends them"
        )
    refuse(namespaces)
    owner = Owner(name, backend, os.getpid(), start_of(os.getpid()), namespaces)
    owner.write(new=True)
    return owner


def find(name: str) -> Owner | None:
    """The record of a name; LinkError where it cannot be read."""
    return _read(folder() / f"{name}.json")


def owners() -> list[Owner]:
    """All records that can be read."""
    return [found for found in _all().values() if isinstance(found, Owner)]


def unreadable() -> dict[str, str]:
    """By name what is wrong with the records that cannot be read, and what to do about it."""
    return {name: str(found) for name, found in _all().items() if isinstance(found, LinkError)}


def _all() -> dict[str, Owner | LinkError | None]:
    found: dict[str, Owner | LinkError | None] = {}
    for path in sorted(folder().glob("*.json")):
        try:
            found[path.stem] = _read(path)
        except LinkError as error:
            found[path.stem] = error
    return found


def _read(path: Path) -> Owner | None:
    try:
        return _owner(path.stem, json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = error.strerror
    except ValueError as error:
        reason = str(error)
    if path.stem.startswith(INTERFACE):
        device = path.stem.removeprefix(INTERFACE)
        remedy = f"remove what `tc qdisc show dev {device}` lists, then this file: what was there before is lost"
    else:
        remedy = f"remove this file when the run {path.stem!r} has ended, then `splitcom link reset`"
    raise LinkError(f"{path}: no record that splitcom wrote: {reason}; {remedy}")


def _owner(name: str, table: Any) -> Owner:
    """The owner that a record's table tells of; ValueError where that cannot be: what it lists is removed one day."""
    if not isinstance(table, dict) or {key: type(value) for key, value in table.items()} != _TYPES:
        raise ValueError(f"it does not have the keys {', '.join(_TYPES)}, each of its type")
    if table["name"] != name:
        raise ValueError(f"it is of the name {table['name']!r}")
    if not all(isinstance(each, str) and each.startswith(PREFIX) for each in table["namespaces"]):
        raise ValueError(f"it lists a namespace that does not begin with {PREFIX}")
    return Owner(**table | {"namespaces": tuple(table["namespaces"])})


def start_of(pid: int) -> int:
    """When a process began, in the kernel's ticks: with its number, what no other process ever has. 0: it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, *words = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(words[18])  # that nobody has taken note of its end does not make it live

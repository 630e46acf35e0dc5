"""Who has links on this machine: a record per owner, with what it made, so that a crash leaves nothing unknown.

Records lie in /run/splitcom (root) or the user's runtime directory. A record names the process that made it; once that
has ended, what the record lists may be removed. Shaping of real interfaces has no process and lasts until removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from testbed.links.errors import LinkError

PREFIX = "splitcom-"  # of everything that is made


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
        return self.pid != 0 and _started(self.pid) == self.started

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
        with scratch.open("w") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        if not new:
            scratch.replace(self.path)
            return
        try:
            os.link(scratch, self.path)
        except FileExistsError:
            raise LinkError(f"links of the name {self.name!r} are being made by another process") from None
        finally:
            scratch.unlink()

    def forget(self) -> None:
        """Remove the record."""
        for path in (self.path, self.socket):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def claim(name: str, backend: str, namespaces: tuple[str, ...] = ()) -> Owner:
    """A record of this process; LinkError where a process that lives has that name, or one that died left something."""
    there = find(name)
    if there is not None and there.alive:
        raise LinkError(f"links of the name {name!r} are in use by process {there.pid}; valid: another run name")
    if there is not None:
        raise LinkError(
            f"links of the name {name!r} are left from process {there.pid}; `splitcom link reset` ends them"
        )
    owner = Owner(name, backend, os.getpid(), _started(os.getpid()), namespaces)
    owner.write(new=True)
    return owner


def find(name: str) -> Owner | None:
    """The record of a name."""
    return _read(folder() / f"{name}.json")


def owners() -> list[Owner]:
    """All records."""
    found = [_read(path) for path in sorted(folder().glob("*.json"))]
    return [owner for owner in found if owner is not None]


def _read(path: Path) -> Owner | None:
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LinkError(f"{path}: {error}; valid: a record that splitcom wrote") from None
    try:
        return Owner(**table | {"namespaces": tuple(table["namespaces"])})
    except (KeyError, TypeError) as error:
        raise LinkError(f"{path}: {error}; valid: a record that splitcom wrote, or none") from None


def _started(pid: int) -> int:
    """When a process began, in the kernel's ticks: with its number, what no other process ever has. 0: it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])

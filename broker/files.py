"""Files that hold secrets: written whole or not at all, and readable by their owner only."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else who asks for it changes the file meanwhile; waits for those who do. Raises OSError.

    The lock is the directory's: the file may not be there yet, and another one takes its place when it is written.
    """
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Put `content` in place of the file, or leave it as it is; nobody ever reads a half. Raises OSError.

    It is on the disk when this returns, and the owner of a file that was there before is that of the new one.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            _keep_owner(descriptor, path)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _keep_owner(descriptor: int, path: Path) -> None:
    """Where root writes the file of another user, a broker of that user has to be able to read it afterwards."""
    if os.geteuid() == 0 and path.exists():
        old = path.stat()
        os.fchown(descriptor, old.st_uid, old.st_gid)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

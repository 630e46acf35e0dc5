"""Network namespaces by name: made, left and used from a program that stays in its own."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from testbed.links.errors import LinkError

T = TypeVar("T")

FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def within(namespace: str, call: Callable[[], T]) -> T:
    """What `call` returns in a namespace: sockets and devices that it opens stay there when it is left.

    It runs in a thread of its own, since a namespace belongs to a thread. Raises OSError as `call` does, and where the
    namespace is not there or may not be entered.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            descriptor = os.open(FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(descriptor, _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), namespace)
            finally:
                os.close(descriptor)
            outcome.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter, name=f"within {namespace}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def prefix(namespace: str) -> tuple[str, ...]:
    """What has to stand before a command to run it in a namespace."""
    return ("ip", "netns", "exec", namespace)


def listed(beginning: str) -> list[str]:
    """The names of the namespaces that begin so."""
    return sorted(path.name for path in FOLDER.glob(f"{beginning}*")) if FOLDER.is_dir() else []


def refuse(names: Iterable[str]) -> None:
    """LinkError where one of these exists: it is somebody else's, and must not be removed as if it were ours."""
    there = [name for name in names if (FOLDER / name).exists()]
    if there:
        raise LinkError(f"network namespace {there[0]} exists already; `splitcom link reset` removes what no run owns")

"""A /run of one's own: `splitcom link show` and `reset` take in all that there is, which is then only the test's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from testbed.links.registry import Owner, start_of
from tests.testbed.links.lan import Lan
from tests.testbed.test_processes import ROOT, surroundings

PRIVATE = "mount -t tmpfs none /run && mkdir /run/splitcom && echo made && exec cat"
HOLD = """
import asyncio, contextlib, json, signal, sys
from pathlib import Path
from broker.engines import engine
from testbed.links.lab import Lab
from testbed.links.links_config import LinksConfig
async def go(run, directory, table, broker):
    async with contextlib.AsyncExitStack() as stack:
        config = LinksConfig(**{"calibrate_s": 0} | json.loads(table))
        lab = await stack.enter_async_context(Lab(run, config, ["agent0", "agent1"], Path(directory)))
        if broker:
            await stack.enter_async_context(engine(broker, Path(directory), lab.server))
            await asyncio.create_subprocess_exec(*lab.client("agent0"), "sleep", "600")
        print("made", flush=True)
        await asyncio.sleep(3600)
with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(go(*sys.argv[1:]))
"""


class Apart:
    """A mount namespace in which /run is empty at first, with runs and commands in it; gone when it is left."""

    def __enter__(self) -> Apart:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", PRIVATE]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "made\n":
            pytest.skip("a mount namespace cannot be made")
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    @property
    def run(self) -> Path:
        """Its /run, seen from here."""
        return Path(f"/proc/{self._holder.pid}/root/run")

    def record(self, name: str) -> Path:
        """A record's file, seen from here."""
        return self.run / "splitcom" / f"{name}.json"

    def owner(self, name: str, backend: str = "netns", alive: bool = False, **values: Any) -> None:
        """Write a record, of this process or of one that has ended."""
        started = start_of(os.getpid()) if alive else 1
        self.record(name).write_text(json.dumps(asdict(Owner(name, backend, os.getpid(), started, **values))))

    def namespaces(self) -> list[str]:
        """The names of its network namespaces."""
        return sorted(path.name for path in (self.run / "netns").glob("*"))

    def within(self, *words: str, network: str = "") -> list[str]:
        """A command to run there, and in a network namespace of the machine where one is given."""
        places = [f"--mount=/proc/{self._holder.pid}/ns/mnt", *([f"--net=/run/netns/{network}"] if network else [])]
        return ["nsenter", *places, *words]

    def link(self, *arguments: str, network: str = "") -> subprocess.CompletedProcess[str]:
        """`splitcom link` there."""
        command = self.within(sys.executable, "-m", "testbed", "link", *arguments, network=network)
        return subprocess.run(command, check=False, capture_output=True, text=True, env=surroundings(), timeout=120)

    def on(self, lan: Lan, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`splitcom link` on the host of a LAN, behind its interface."""
        return self.link(*arguments, network=lan.host)

    @contextlib.contextmanager
    def holding(
        self, name: str, directory: Path, config: dict[str, Any], broker: str = ""
    ) -> Iterator[subprocess.Popen[str]]:
        """A run with the links of two clients; with a broker also a program of agent0's that runs on its own."""
        directory.mkdir()
        command = self.within(sys.executable, "-c", HOLD, name, str(directory), json.dumps(config), broker)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings(), cwd=ROOT) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "made\n"
                yield process
            finally:
                process.send_signal(signal.SIGINT)

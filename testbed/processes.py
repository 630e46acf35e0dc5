"""Programs as child processes: their events, their last words, and an end that is always reached."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from broker.errors import BrokerError

OnEvent = Callable[[str, dict[str, Any]], None]
EVENT_BYTES = 1 << 24


class ProcessError(BrokerError):
    """A child process that ended before its time; carries its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _ignore(name: str, event: dict[str, Any]) -> None:
    """Take no notice of an event."""


class Child:
    """One program started with `--events --attached`: it ends with us, however we end.

    `prefix` stands before its command: what takes it into another network.
    """

    def __init__(
        self, name: str, module: str, config: Path, log: Path, on_event: OnEvent, prefix: Sequence[str] = ()
    ) -> None:
        self.name, self.log = name, log
        self.last: dict[str, dict[str, Any]] = {}
        self._module, self._config, self._on_event = module, config, on_event
        self._prefix = tuple(prefix)

    async def start(self) -> None:
        """Start the process in a session of its own, so that a terminal's Ctrl-C reaches only its parent."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPLITCOM_") or k == "SPLITCOM_CACHE"}
        # Idle threads that spin take the processor from the other programs of the run, which share this machine.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        command = [
            *self._prefix,
            sys.executable,
            "-m",
            self._module,
            "--config",
            str(self._config),
            "--events",
            "--attached",
        ]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
                limit=EVENT_BYTES,
            )

    async def watch(self) -> None:
        """Pass events on until the process ends; ProcessError unless it ends well."""
        await self._listen(self._on_event)
        status = await self._process.wait()
        if status != 0:
            raise ProcessError(f"{self.name}: {self._last_words(status)}", status)

    async def _listen(self, on_event: OnEvent) -> None:
        """Take events in until the process closes its end; what it was killed in the middle of is no event."""
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()).endswith(b"\n"):
            event = json.loads(line)
            self.last[event["event"]] = event
            on_event(self.name, event)

    async def stop(self, patience_s: float) -> None:
        """Ask the process to end, insist after `patience_s`, and wait for it and for its last events."""
        if self._process.returncode is not None:
            return
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                break
            try:
                async with asyncio.timeout(patience_s):
                    await self._listen(_ignore)
                    await self._process.wait()
                    break
            except TimeoutError:
                continue

    def records(self) -> dict[str, Any]:
        """The last record of its bytes that the process gave: its summary, or what it had when it was stopped."""
        return self.last.get("summary") or self.last.get("stopped") or {}

    def _last_words(self, status: int) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if said:
            return said[-1]
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{how}; its log is {self.log}"

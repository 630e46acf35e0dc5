"""The testbed's end of an emulator: the process, and what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.links.emulator import LINE_BYTES
from testbed.links.errors import LinkError

ANSWER_S = 15.0
END_S = 3.0


class EmulatorProcess:
    """An emulator of a kind, `tun` or `proxy`, as an asynchronous context manager; it ends with us, however we end."""

    def __init__(self, kind: str, log: Path) -> None:
        self._kind, self._log = kind, log
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._awaited = 0  # answers, those that nobody waits for any more among them
        self._log_began = 0

    async def __aenter__(self) -> EmulatorProcess:
        with self._log.open("ab") as log:
            self._log_began = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "testbed.links.emulator",
                self._kind,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=LINE_BYTES,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a command; LinkError with its reason where there is none or it is a refusal."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_S):
                    process.stdin.write(json.dumps(command).encode() + b"\n")
                    self._awaited += 1
                    await process.stdin.drain()
                    while self._awaited:
                        line = await process.stdout.readline()
                        self._awaited -= 1
            except TimeoutError:
                raise LinkError(
                    f"the {self._kind} emulator gave {command['do']!r} no answer in {ANSWER_S:g} s"
                ) from None
            except ConnectionError:
                pass
        if not line.endswith(b"\n"):
            raise LinkError(f"the {self._kind} emulator ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise LinkError(answer["error"])
        return answer

    async def watch(self) -> None:
        """Wait for as long as the emulator runs; LinkError with its last words when it has ended."""
        assert self._process is not None
        await self._process.wait()
        raise LinkError(f"the {self._kind} emulator ended: {self._last_words()}")

    async def counted(self) -> dict[str, Any]:
        """What it has counted: `clients` with each way's counts, and how exact it was (see `Program`)."""
        return await self.ask({"do": "counters"})

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_began)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it said nothing; its log is {self._log}"

"""Commands to the links of a run that goes on: a line of JSON over a local socket, and a line back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from broker.errors import BrokerError
from testbed.links.errors import LinkError

ANSWER_S = 15.0
LINE_BYTES = 1 << 20
Answer = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


class CommandSocket:
    """The listening end; only the user who runs it can reach it."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path, self._answer = path, answer

    async def __aenter__(self) -> CommandSocket:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=LINE_BYTES)
        self._path.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                line = await reader.readline()
                try:
                    answer = {"ok": True, **await self._answer(json.loads(line))}
                except (BrokerError, KeyError, ValueError) as error:
                    answer = {"ok": False, "error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # who asked is gone
        finally:
            writer.close()


async def ask(path: Path, command: Mapping[str, Any]) -> dict[str, Any]:
    """What the run that listens at a path answers; LinkError with its reason where it will not."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES)
            writer.write(json.dumps(command).encode() + b"\n")
            line = await reader.readline()
            writer.close()
        answer: dict[str, Any] = json.loads(line) if line else {"ok": False, "error": f"{path.stem} hung up"}
    except (FileNotFoundError, ConnectionRefusedError):
        raise LinkError(f"{path.stem} takes no commands now: its links are being made, measured or removed") from None
    except (OSError, TimeoutError, ValueError) as error:
        raise LinkError(f"{path.stem} does not answer: {str(error) or f'nothing in {ANSWER_S:g} s'}") from None
    if not answer.pop("ok"):
        raise LinkError(answer["error"])
    return answer

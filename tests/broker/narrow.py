"""A TCP relay that passes so many bytes a second towards its target, which can change at any time."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

STEP_S = 0.01


class Narrow:
    """Leads every connection to `port` of this machine; enter it to listen, on a port of its own."""

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self._target = port
        self.bytes_per_s = bytes_per_s

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", 0, limit=1 << 14)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._up(reader, back), self._down(there, writer))

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, due = asyncio.get_running_loop(), 0.0
        while data := await reader.read(max(1, int(self.bytes_per_s * STEP_S))):
            due = max(due, loop.time()) + len(data) / self.bytes_per_s
            await asyncio.sleep(due - loop.time())
            writer.write(data)
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

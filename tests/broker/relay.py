"""A TCP relay that can misbehave, in this process or as `python -m tests.broker.relay PORT`, which prints its port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

READ_BYTES = 1 << 16
Change = Callable[[bytes], bytes]
_RESET = struct.pack("ii", 1, 0)


class Relay:
    """Leads every connection to `port` of this machine; enter it to listen, on a port of its own."""

    def __init__(self, port: int, change: Callable[[], Change] | None = None) -> None:
        self._target = port
        self._change = change  # makes what each connection's bytes from the target go through
        self._writers: set[asyncio.StreamWriter] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._reset_after: int | None = None
        self._hold_after: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.resets = 0
        self.passed = 0  # bytes towards the target, over all connections
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.flow()
        for writer in self._writers | self._deaf:
            writer.transport.abort()
        await self._server.wait_closed()

    def reset(self, after: int = 0) -> None:
        """Reset all connections when so many more bytes have passed towards the target."""
        self._reset_after = self.passed + after

    def go_deaf(self) -> None:
        """Swallow all that comes on the connections there are, which stay open; new ones work."""
        self._deaf |= self._writers

    def hold(self, after: int = 0) -> None:
        """Let nothing pass any more, either way and on new connections too, as soon as so many more bytes have passed
        towards the target; not even the end of a connection is told."""
        if after:
            self._hold_after = self.passed + after
        else:
            self._flowing.clear()

    def flow(self) -> None:
        """Let everything pass again, what was held first."""
        self._hold_after = None
        self._flowing.set()

    @property
    def holds(self) -> bool:
        return not self._flowing.is_set()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._flowing.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, back, writer, up=True), self._pump(there, writer, back, up=False))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter, up: bool
    ) -> None:
        self._writers.add(writer)
        change = self._change() if self._change is not None and not up else None
        try:
            while data := await reader.read(READ_BYTES):
                if change is not None:
                    data = change(data)
                if writer in self._deaf:
                    continue
                if up and self._hold_after is not None and self.passed + len(data) > self._hold_after:
                    before = self._hold_after - self.passed
                    writer.write(data[:before])
                    self.passed, data = self._hold_after, data[before:]
                    self._hold_after = None
                    self.hold()
                await self._flowing.wait()
                if up and self._reset_after is not None and self.passed + len(data) > self._reset_after:
                    writer.write(data[: max(0, self._reset_after - self.passed)])
                    self._reset_after = None
                    self.resets += 1
                    for each in list(self._writers):
                        each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        each.transport.abort()
                    return
                self.passed += len(data) * up
                writer.write(data)
                await writer.drain()
        finally:
            await self._flowing.wait()
            self._writers.discard(writer)
            if writer not in self._deaf:
                writer.close()


async def main(port: int) -> None:
    async with Relay(port) as relay:
        print(relay.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

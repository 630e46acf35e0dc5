"""A shaping TCP relay per client: bytes in pieces of a packet's payload through flows.

All connections of a client share its two flows. Reading stops while more than a few milliseconds wait, so that the
sender feels the link's rate; some read-ahead is needed, for a relay that wakes up late would leave the link idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.congestion import in_use, set_congestion
from broker.dial import dial
from broker.engines import Address
from testbed.links.alarm import Alarm
from testbed.links.flow import Flow
from testbed.links.profile import WAYS, LinkProfile, from_table
from testbed.links.rates import L2_HEADER_BYTES, PAYLOAD_BYTES
from testbed.links.traces import Way

CREDIT_S = 0.005
AHEAD_S = 0.02
PIECE_S = 0.002  # what is read at once, at the link's rate
PIECE_BYTES_MAX = 45 * PAYLOAD_BYTES
BUFFER_BYTES = 65_536
HEADER_BYTES = 52  # of IPv4 and TCP with timestamps

# Where to, what, and for the end of a stream (no bytes) whom to tell that it has been passed on.
Piece = tuple[asyncio.StreamWriter, bytes, asyncio.Event]


def ip_bytes(payload: int) -> int:
    """What `Pipe` has to be told for a payload to count as its packets do on layer 2."""
    packets = max(1, math.ceil(payload / PAYLOAD_BYTES))
    return payload + packets * (HEADER_BYTES + L2_HEADER_BYTES) - L2_HEADER_BYTES


class _Way:
    """One way of a client's link, with room for what may wait in it."""

    def __init__(self, alarm: Alarm, profile: LinkProfile, way: Way, seed: int) -> None:
        self._way = way
        self.flow: Flow[Piece] = Flow(alarm, unbounded(profile), way, seed, self._deliver, CREDIT_S)
        self._measure(profile)

    def _measure(self, profile: LinkProfile) -> None:
        self._rate, self._began_s = profile.rate(self._way), time.monotonic()

    def _passes(self, span_s: float) -> float:
        """The bytes that the link passes from now on in a time; as the rate is now, for it may vary."""
        now_s = time.monotonic() - self._began_s
        return self._rate.bytes_between(now_s, now_s + span_s)

    @property
    def piece_bytes(self) -> int:
        """How much to read at once."""
        return max(1, int(min(self._passes(PIECE_S), PIECE_BYTES_MAX) // PAYLOAD_BYTES)) * PAYLOAD_BYTES

    @property
    def _ahead(self) -> float:
        return max(self._passes(AHEAD_S), 2 * PAYLOAD_BYTES)

    def change(self, profile: LinkProfile) -> None:
        self._measure(profile)
        self.flow.change(unbounded(profile))

    def _deliver(self, piece: Piece) -> bool:
        writer, data, passed_on = piece
        if not data:
            passed_on.set()
        if writer.is_closing():
            return False
        if data:
            writer.write(data)
        elif writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()
        return True

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay from one connection to the other until the end of the stream, which is passed on as well."""
        passed_on = asyncio.Event()
        while data := await reader.read(self.piece_bytes):
            self.flow.put(ip_bytes(len(data)), (writer, data, passed_on))
            while self.flow.pipe.waiting_bytes > self._ahead:
                await self.flow.until_sent()
            await writer.drain()
        self.flow.put(ip_bytes(0), (writer, b"", passed_on))
        await passed_on.wait()


def unbounded(profile: LinkProfile) -> LinkProfile:
    """The profile with a queue that never overflows: a relay must not lose any of a stream."""
    return LinkProfile(replace(profile.up, queue="1024gb"), replace(profile.down, queue="1024gb"))


class ProxyEmulator:
    """The relays of a run; `ports` by client, where they listen on loopback. `target` is where they lead.

    `congestion` counts the connections so far by the congestion control that they had.
    """

    def __init__(self, alarm: Alarm, congestion: str, clients: Mapping[str, Any]) -> None:
        self._congestion = congestion
        self._ways = {
            name: {
                way: _Way(alarm, from_table(client["profile"], Path()), way, 2 * client["seed"] + number)
                for number, way in enumerate(WAYS)
            }
            for name, client in clients.items()
        }
        self.flows = {name: {way: each.flow for way, each in ways.items()} for name, ways in self._ways.items()}
        self.target: Address | None = None
        self.ports: dict[str, int] = {}
        self.congestion: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []

    async def open(self) -> None:
        """Listen for every client; SettingsError for a congestion control that cannot be had."""
        for name, ways in self._ways.items():
            sock = socket.create_server(("127.0.0.1", 0))
            try:
                set_congestion(sock, self._congestion)
            except BaseException:
                sock.close()
                raise

            async def relay(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ways: Mapping[Way, _Way] = ways
            ) -> None:
                await self._relay(ways, reader, writer)

            self._servers.append(await asyncio.start_server(relay, sock=sock, limit=BUFFER_BYTES))
            self.ports[name] = sock.getsockname()[1]

    async def _relay(
        self, ways: Mapping[Way, _Way], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        ends = [writer]
        try:
            if self.target is None:
                return
            _prepare(writer)
            sock = await dial(*self.target, self._congestion)
            far_reader, far_writer = await asyncio.open_connection(sock=sock, limit=BUFFER_BYTES)
            _prepare(far_writer)
            ends.append(far_writer)
            if self._congestion:
                self.congestion.update(in_use(end.get_extra_info("socket")) for end in ends)
            async with asyncio.TaskGroup() as group:
                group.create_task(ways["up"].pump(reader, far_writer))
                group.create_task(ways["down"].pump(far_reader, writer))
        except* OSError:
            pass  # one end broke the connection off: so does the other
        finally:
            for end in ends:
                end.close()

    def change(self, name: str, profile: LinkProfile) -> None:
        """Give a client's link another profile."""
        for way in self._ways[name].values():
            way.change(profile)

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()


def _prepare(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    writer.transport.set_write_buffer_limits(high=BUFFER_BYTES)

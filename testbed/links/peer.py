"""One end of a measuring connection, and the bounds of what an end does because the other one says so.

Only the standard library: this runs on devices. Whatever the other end sends, the memory taken is bounded: lines and
buffers by constants, datagrams by a bit each.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

from testbed.links.errors import LinkError

LINE_BYTES_MAX = 1 << 16
BUFFER_BYTES = 1 << 18
WAKE_BYTES = 1 << 15  # a receiver that woke up for every packet would take the processor from those that send
QUIET_S = 0.02  # when nothing came for so long, nothing is on its way
BATCH_S = 0.002  # datagrams are sent in batches this far apart: sleeping is not exact to less
SILENCE_S = 60.0  # a peer that says nothing for this long, while it has something to do, is gone
BYTES_MAX = 1 << 36  # of a transfer
MESSAGES_MAX = 1000
DATAGRAMS_MAX, DATAGRAM_BYTES_MAX = 1 << 26, 1472
GAP_MIN_S, GAP_MAX_S = 1e-7, 3600.0
NUMBER_MAX = 1e12  # of anything that is told: seconds of a clock
TIME = struct.Struct("!d")
_NUMBER = struct.Struct("!I")

Message = dict[str, Any]


def whole(message: Mapping[str, Any], key: str, high: int, low: int = 1) -> int:
    """A whole number that the other end said; LinkError unless it is from `low` to `high`."""
    value = message.get(key)
    if not isinstance(value, int) or not low <= value <= high:
        raise LinkError(f"the other end said {key} {_short(value)}; valid: {low} to {high}")
    return value


def number(message: Mapping[str, Any], key: str, low: float = -NUMBER_MAX, high: float = NUMBER_MAX) -> float:
    """A number that the other end said; LinkError unless it is from `low` to `high`, as no NaN is."""
    return _between(message.get(key), key, low, high)


def numbers(message: Mapping[str, Any], key: str, count: int) -> list[float]:
    """So many numbers that the other end said; LinkError for anything else."""
    values = message.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise LinkError(f"the other end said {key} {_short(values)}; valid: {count} numbers")
    return [_between(value, key, -NUMBER_MAX, NUMBER_MAX) for value in values]


def _between(value: Any, key: str, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not low <= value <= high:
        raise LinkError(f"the other end said {key} {_short(value)}; valid: {low:g} to {high:g}")
    return float(value)


def _short(value: Any) -> str:
    return ascii(value)[:40]


class Peer:
    """One end of a connection: lines, bytes and times over TCP, datagrams beside it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.settimeout(SILENCE_S)
        self._buffer = bytearray(BUFFER_BYTES)

    @property
    def host(self) -> str:
        """The address of the other end."""
        address: str = self.sock.getpeername()[0]
        return address

    @property
    def own_host(self) -> str:
        """The address of this end."""
        address: str = self.sock.getsockname()[0]
        return address

    def say(self, message: Message) -> None:
        """Send a line."""
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, timeout_s: float | None = SILENCE_S) -> Message:
        """The next line; EOFError where there is none, LinkError for one that is too long or no JSON object."""
        self.sock.settimeout(timeout_s)
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = self.sock.recv(1)
            if not byte:
                raise EOFError
            if len(line) >= LINE_BYTES_MAX:
                raise LinkError(f"the other end said more than {LINE_BYTES_MAX} bytes in a line")
            line += byte
        self.sock.settimeout(SILENCE_S)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise LinkError(f"the other end said {bytes(line[:40])!a}; valid: a JSON object")
        return message

    def exactly(self, count: int) -> bytes:
        """That many bytes; EOFError where there are fewer."""
        data = self.sock.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise EOFError
        return data

    def sink(self, count: int) -> Message:
        """Take that many bytes, and say when the first and the last of them came."""
        left, first_bytes, first, wake = count, 0, 0.0, 1
        while left:
            size = self.sock.recv_into(self._buffer, min(left, BUFFER_BYTES))
            if not size:
                raise EOFError
            if not first_bytes:
                first_bytes, first = size, time.monotonic()
            left -= size
            if wake != max(1, min(left, WAKE_BYTES)):
                wake = max(1, min(left, WAKE_BYTES))
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wake)
        return {"bytes": count, "first_bytes": first_bytes, "first": first, "last": time.monotonic()}

    def pour(self, count: int) -> float:
        """Send that many bytes; when that began. Each piece of it is given SILENCE_S, however slow the link is."""
        began = time.monotonic()
        block = memoryview(bytes(BUFFER_BYTES))
        while count:
            count -= self.sock.send(block[: min(count, BUFFER_BYTES)])
        return began


def pace(host: str, to: tuple[str, int], count: int, gap_s: float, size: int) -> None:
    """Send numbered datagrams from an own address, evenly but for the batches that a sleep's inaccuracy makes."""
    body = bytes(size - _NUMBER.size)
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        began = time.monotonic()
        while sent < count:
            due = min(count, int((time.monotonic() - began) / gap_s) + 1)
            while sent < due:
                sock.sendto(_NUMBER.pack(sent) + body, to)
                sent += 1
            time.sleep(BATCH_S)


class Collector:
    """Takes the datagrams of one peer in, in a thread of its own, from `with` until it is left and none waits."""

    def __init__(self, peer: Peer, count: int, size: int) -> None:
        self._from, self._count, self._size = peer.host, count, size
        self._seen = bytearray(count // 8 + 1)  # a bit each
        self._first = self._last = 0.0
        self._done = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES << 4)
        self._socket.bind((peer.own_host, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._collect)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def _collect(self) -> None:
        waiting = select.poll()  # select() knows no descriptor above 1023
        waiting.register(self._socket, select.POLLIN)
        while True:
            if not waiting.poll(1000 * QUIET_S):
                if self._done.is_set():
                    return
                continue
            data, (host, _) = self._socket.recvfrom(BUFFER_BYTES)
            if host != self._from or len(data) != self._size:
                continue
            which = _NUMBER.unpack_from(data)[0]
            if which < self._count:
                self._seen[which >> 3] |= 1 << (which & 7)
                self._last = time.monotonic()
                self._first = self._first or self._last

    def answer(self) -> Message:
        """What came, and when."""
        received = int.from_bytes(self._seen, "little").bit_count()
        return {"received": received, "first": self._first, "last": self._last}

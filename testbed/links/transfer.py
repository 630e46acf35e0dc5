"""Transfers that measure a link: `python -m testbed.links.transfer serve|join`, one process at each end.

`serve` listens, prints `{"host", "port"}`, and then carries out jobs that it reads as JSON lines, answering each with
one; it ends when its standard input does. `join HOST PORT NAME` connects as a client, does what it is told, and ends
with the connection. Times are seconds of CLOCK_MONOTONIC, which both ends share on one machine.

A job is `{"do": ..., "clients": {NAME: {...}}}` and is done with all its clients at once:

* `hello` `{}`: nothing, once the client has connected.
* `up`, `down` `{"bytes": n}`: n bytes over TCP. Answer by client: `bytes`, when it `began`, `first_bytes` and when
  they came (`first`), when the last one did (`last`).
* `delay` `{"count": k}`: k small messages there and back, one by one. Answer: lists `up` and `down` of seconds.
* `datagrams_up`, `datagrams_down` `{"count": n, "gap": s, "size": b}`: n datagrams of b bytes, s seconds apart. Answer:
  how many were `sent` and `received`, and when the `first` and the `last` of them came.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import threading
import time
from typing import Any

from broker.congestion import set_congestion

LINE_BYTES_MAX = 1 << 20
BUFFER_BYTES = 1 << 18
QUIET_S = 0.02  # when nothing came for so long, nothing is on its way
BATCH_S = 0.002  # datagrams are sent in batches this far apart: sleeping is not exact to less
SILENCE_S = 60.0  # a peer that says nothing for this long is gone
_TIME = struct.Struct("!d")
_NUMBER = struct.Struct("!I")


class Peer:
    """One end of a connection: lines, bytes and times over TCP, datagrams beside it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(SILENCE_S)
        self._buffer = bytearray(BUFFER_BYTES)

    def say(self, message: dict[str, Any]) -> None:
        """Send a line."""
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """The next line; EOFError where there is none."""
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = self.sock.recv(1)
            if not byte or len(line) > LINE_BYTES_MAX:
                raise EOFError
            line += byte
        message: dict[str, Any] = json.loads(line)
        return message

    def exactly(self, count: int) -> bytes:
        """That many bytes; EOFError where there are fewer."""
        data = self.sock.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise EOFError
        return data

    def sink(self, count: int) -> dict[str, Any]:
        """Take that many bytes, and say when the first and the last of them came."""
        left, first_bytes, first = count, 0, 0.0
        while left:
            size = self.sock.recv_into(self._buffer, min(left, BUFFER_BYTES))
            if not size:
                raise EOFError
            if not first_bytes:
                first_bytes, first = size, time.monotonic()
            left -= size
        return {"bytes": count, "first_bytes": first_bytes, "first": first, "last": time.monotonic()}

    def pour(self, count: int) -> float:
        """Send that many bytes; when that began."""
        began = time.monotonic()
        block = memoryview(bytes(BUFFER_BYTES))
        while count:
            size = min(count, BUFFER_BYTES)
            self.sock.sendall(block[:size])
            count -= size
        return began


def pace(sock: socket.socket, to: tuple[str, int], job: dict[str, Any]) -> None:
    """Send numbered datagrams, evenly but for the batches that a sleep's inaccuracy makes."""
    began = time.monotonic()
    body = bytes(job["size"] - _NUMBER.size)
    sent = 0
    while sent < job["count"]:
        due = min(job["count"], int((time.monotonic() - began) / job["gap"]) + 1)
        while sent < due:
            sock.sendto(_NUMBER.pack(sent) + body, to)
            sent += 1
        time.sleep(BATCH_S)


class Collector:
    """Takes datagrams in, in a thread of its own, from `with` until it is left and nothing waits any more."""

    def __init__(self, host: str, size: int) -> None:
        self._size = size
        self._seen: set[int] = set()
        self._first = self._last = 0.0
        self._done = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES << 4)
        self._socket.bind((host, 0))
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
        while True:
            ready, _, _ = select.select([self._socket], [], [], QUIET_S)
            if not ready:
                if self._done.is_set():
                    return
                continue
            data = self._socket.recv(BUFFER_BYTES)
            if len(data) == self._size:
                self._seen.add(_NUMBER.unpack_from(data)[0])
                self._last = time.monotonic()
                self._first = self._first or self._last

    def answer(self) -> dict[str, Any]:
        """What came, and when."""
        return {"received": len(self._seen), "first": self._first, "last": self._last}


class Client:
    """The end that joined: does what it is told."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def run(self) -> None:
        """Until the connection ends."""
        actions = {"up": self._up, "down": self._down, "delay": self._delay, "datagrams_up": self._datagrams_up}
        actions["datagrams_down"] = self._datagrams_down
        try:
            while True:
                job = self._peer.hear()
                self._peer.say(actions[job["do"]](job))
        except (EOFError, ConnectionError):
            return

    def _up(self, job: dict[str, Any]) -> dict[str, Any]:
        return {"began": self._peer.pour(job["bytes"])}

    def _down(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._peer.sink(job["bytes"])

    def _delay(self, job: dict[str, Any]) -> dict[str, Any]:
        times: dict[str, list[float]] = {"up": [], "down": []}
        for _ in range(job["count"]):
            sent = time.monotonic()
            self._peer.sock.sendall(_TIME.pack(sent))
            there = _TIME.unpack(self._peer.exactly(_TIME.size))[0]
            times["down"].append(time.monotonic() - there)
            times["up"].append(there - sent)
        return times

    def _datagrams_up(self, job: dict[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            pace(sock, (self._peer.sock.getpeername()[0], job["port"]), job)
        return {}

    def _datagrams_down(self, job: dict[str, Any]) -> dict[str, Any]:
        with Collector(self._peer.sock.getsockname()[0], job["size"]) as collector:
            self._peer.say({"port": collector.port})
            self._peer.hear()  # that all are sent
        return collector.answer()


class Server:
    """The end that listens and tells the others what to do."""

    def __init__(self, host: str, congestion: str) -> None:
        self._listening = socket.create_server((host, 0))
        set_congestion(self._listening, congestion)
        self._peers: dict[str, Peer] = {}
        self._arrived = threading.Condition()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listening.getsockname()[:2]
        return host, port

    def accept(self) -> None:
        """Take clients in, for ever."""
        while True:
            peer = Peer(self._listening.accept()[0])
            try:
                name = peer.hear()["name"]
            except (EOFError, OSError, ValueError, KeyError):
                peer.sock.close()
                continue
            with self._arrived:
                self._peers[name] = peer
                self._arrived.notify_all()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Carry a job out with all its clients at once; the answer by client, `{"error"}` where it failed."""
        answers: dict[str, Any] = {}

        def serve(name: str, values: dict[str, Any]) -> None:
            try:
                answers[name] = getattr(self, f"_{job['do']}")(self._wait(name), values)
            except (EOFError, OSError, ValueError) as error:
                answers[name] = {"error": str(error) or "the connection ended"}

        threads = [threading.Thread(target=serve, args=item) for item in job["clients"].items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def _wait(self, name: str) -> Peer:
        with self._arrived:
            if not self._arrived.wait_for(lambda: name in self._peers, SILENCE_S):
                raise TimeoutError(f"{name} did not connect within {SILENCE_S:g} s")
            return self._peers[name]

    def _hello(self, peer: Peer, job: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _up(self, peer: Peer, job: dict[str, Any]) -> dict[str, Any]:
        peer.say({"do": "up", **job})
        return peer.sink(job["bytes"]) | peer.hear()

    def _down(self, peer: Peer, job: dict[str, Any]) -> dict[str, Any]:
        peer.say({"do": "down", **job})
        began = peer.pour(job["bytes"])
        return peer.hear() | {"began": began}

    def _delay(self, peer: Peer, job: dict[str, Any]) -> dict[str, Any]:
        peer.say({"do": "delay", **job})
        for _ in range(job["count"]):
            peer.exactly(_TIME.size)
            peer.sock.sendall(_TIME.pack(time.monotonic()))
        return peer.hear()

    def _datagrams_up(self, peer: Peer, job: dict[str, Any]) -> dict[str, Any]:
        with Collector(self.address[0], job["size"]) as collector:
            peer.say({"do": "datagrams_up", "port": collector.port, **job})
            peer.hear()
        return {"sent": job["count"]} | collector.answer()

    def _datagrams_down(self, peer: Peer, job: dict[str, Any]) -> dict[str, Any]:
        peer.say({"do": "datagrams_down", **job})
        port = peer.hear()["port"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            pace(sock, (peer.sock.getpeername()[0], port), job)
        peer.say({})
        return {"sent": job["count"]} | peer.hear()


def serve(host: str, congestion: str) -> None:
    """Announce the address, then carry out what standard input says until it ends."""
    server = Server(host, congestion)
    threading.Thread(target=server.accept, daemon=True).start()
    print(json.dumps(dict(zip(("host", "port"), server.address, strict=True))), flush=True)
    for line in sys.stdin:
        print(json.dumps(server.run(json.loads(line))), flush=True)


def join(host: str, port: int, name: str, congestion: str) -> None:
    """Connect and do what is told."""
    sock = socket.socket()
    set_congestion(sock, congestion)
    sock.settimeout(SILENCE_S)
    sock.connect((host, port))
    peer = Peer(sock)
    peer.say({"name": name})
    Client(peer).run()


if __name__ == "__main__":
    role, *words = sys.argv[1:]
    if role == "serve":
        serve(words[0], words[1])
    else:
        join(words[0], int(words[1]), words[2], words[3])

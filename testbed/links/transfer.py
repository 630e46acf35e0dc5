"""Transfers that measure a link: `python -m testbed.links.transfer serve|join`, one process at each end.

`serve HOST PORT CONGESTION [DEVICE ...]` listens, prints `{"host", "port"}`, and then carries out jobs that it reads as
JSON lines, answering each with one; it ends when its standard input does. With devices it obeys connections from these
addresses only, and each is known by its own. `join HOST PORT NAME CONGESTION` connects as a client, does what it is
told, and ends with the connection. Times are seconds of CLOCK_MONOTONIC, which both ends share on one machine.

A job is `{"do": ..., "clients": {NAME: {...}}}` and is done with all its clients at once:

* `hello` `{"wait": s}`: nothing, once the client has connected. It is the first job, and nobody can connect after it.
* `up`, `down` `{"bytes": n}`: n bytes over TCP. Answer by client: `bytes`, when it `began`, `first_bytes` and when
  they came (`first`), when the last one did (`last`).
* `delay` `{"count": k}`: k small messages there and back, one by one. Answer: lists `up` and `down` of seconds, by the
  difference of both ends' clocks.
* `datagrams_up`, `datagrams_down` `{"count": n, "gap": s, "size": b}`: n datagrams of b bytes, s seconds apart. Answer:
  how many were `sent` and `received`, and when the `first` and the `last` of them came.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from broker.congestion import set_congestion
from broker.errors import BrokerError
from testbed.links.errors import LinkError
from testbed.links.joining import datagrams, join
from testbed.links.peer import TIME, Collector, Message, Peer, number, numbers, pace, whole

STAMPS = ("first", "last")


class Server:
    """The end that listens and tells the others what to do."""

    def __init__(self, host: str, port: int, congestion: str, devices: Collection[str] = ()) -> None:
        self._listening = socket.create_server((host, port))
        set_congestion(self._listening, congestion)
        self._devices = frozenset(devices)
        self._peers: dict[str, Peer] = {}
        self._arrived = threading.Condition()
        self._closed = False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listening.getsockname()[:2]
        return host, port

    def accept(self) -> None:
        """Take clients in until the first job is done."""
        while not self._closed:
            with contextlib.suppress(OSError):
                peer = Peer(self._listening.accept()[0])
                if self._devices:
                    self._greet(peer)  # at once: of two connections of a device the later one counts
                else:
                    threading.Thread(target=self._greet, args=(peer,), daemon=True).start()

    def _greet(self, peer: Peer) -> None:
        try:
            name = self._name(peer)
        except (OSError, EOFError, LinkError):
            peer.sock.close()
            return
        with self._arrived:
            before = self._peers.get(name)
            self._peers[name] = peer
            self._arrived.notify_all()
        if before is not None:
            before.sock.close()

    def _name(self, peer: Peer) -> str:
        """Who has connected; LinkError for a host that is none of the devices."""
        if not self._devices:
            return str(peer.hear().get("name"))
        if peer.host not in self._devices:
            refusal = f"{peer.host} is not shaped there; valid: a device that `splitcom link set` gave a profile"
            peer.say({"error": refusal})
            raise LinkError(refusal)
        print(f"{peer.host} joined", file=sys.stderr, flush=True)
        return peer.host

    def _close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # which ends `accept`

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Carry a job out with all its clients at once; the answer by client, `{"error"}` where it failed."""
        answers: dict[str, Any] = {}

        def serve(name: str, values: dict[str, Any]) -> None:
            try:
                if job["do"] == "hello":
                    answers[name] = self._hello(name, values)
                else:
                    answers[name] = getattr(self, f"_{job['do']}")(self._peers[name], values)
            except (EOFError, OSError, ValueError, LinkError) as error:
                answers[name] = {"error": str(error) or "the connection ended"}

        threads = [threading.Thread(target=serve, args=item) for item in job["clients"].items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if job["do"] == "hello":
            self._close()
        return answers

    def _hello(self, name: str, job: Message) -> Message:
        with self._arrived:
            if not self._arrived.wait_for(lambda: name in self._peers, job["wait"]):
                raise TimeoutError(f"it did not connect within {job['wait']:g} s")
        return {}

    def _up(self, peer: Peer, job: Message) -> Message:
        peer.say({"do": "up", **job})
        return peer.sink(job["bytes"]) | {"began": number(peer.hear(), "began")}

    def _down(self, peer: Peer, job: Message) -> Message:
        peer.say({"do": "down", **job})
        began = peer.pour(job["bytes"])
        told = peer.hear(None)  # much of it may still be on its way
        first_bytes = whole(told, "first_bytes", job["bytes"])
        stamps = {key: number(told, key) for key in STAMPS}
        return {"bytes": job["bytes"], "first_bytes": first_bytes, "began": began, **stamps}

    def _delay(self, peer: Peer, job: Message) -> Message:
        peer.say({"do": "delay", **job})
        for _ in range(job["count"]):
            peer.exactly(TIME.size)
            peer.sock.sendall(TIME.pack(time.monotonic()))
        told = peer.hear()
        return {way: numbers(told, way, job["count"]) for way in ("up", "down")}

    def _datagrams_up(self, peer: Peer, job: Message) -> Message:
        with Collector(peer, *datagrams(job)) as collector:
            peer.say({"do": "datagrams_up", "port": collector.port, **job})
            peer.hear(None)  # that all are sent
        return {"sent": job["count"]} | collector.answer()

    def _datagrams_down(self, peer: Peer, job: Message) -> Message:
        count, size = datagrams(job)
        peer.say({"do": "datagrams_down", **job})
        pace(peer.own_host, (peer.host, whole(peer.hear(), "port", 65535)), count, job["gap"], size)
        peer.say({})
        told = peer.hear()
        return {"sent": count, "received": whole(told, "received", count, low=0)} | {
            key: number(told, key) for key in STAMPS
        }


def serve(host: str, port: int, congestion: str, devices: Collection[str]) -> None:
    """Announce the address, then carry out what standard input says until it ends."""
    try:
        server = Server(host, port, congestion, devices)
    except OSError as error:
        print(json.dumps({"error": f"{host}:{port}: {os.strerror(error.errno or 0)}"}), flush=True)
        return
    except BrokerError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    threading.Thread(target=server.accept, daemon=True).start()
    print(json.dumps(dict(zip(("host", "port"), server.address, strict=True))), flush=True)
    for line in sys.stdin:
        print(json.dumps(server.run(json.loads(line))), flush=True)


def main(role: str, host: str, port: str, *words: str) -> None:
    """One of the two ends."""
    try:
        if role == "serve":
            serve(host, int(port), words[0], words[1:])
        else:
            join(host, int(port), *words)
    except BrokerError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])

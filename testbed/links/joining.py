"""The end of a measuring connection that joined: it does what the other end says, within bounds.

All that it can be made to do is to send and receive bytes and datagrams, to and from the other end only.
"""

from __future__ import annotations

import contextlib
import socket
import time

from broker.congestion import set_congestion
from testbed.links import peer as bounds
from testbed.links.errors import LinkError
from testbed.links.peer import TIME, Collector, Message, Peer, number, pace, whole

CONNECT_S = 15.0
TEXT_MAX = 300  # of an error that the other end tells


def join(host: str, port: int, name: str = "", congestion: str = "", own: str = "") -> int:
    """Connect and do what is told until the connection ends; how many measurements that were.

    A server of devices knows each by its address, and needs no `name`; `own` is the address to connect from. LinkError
    where there is nobody, where the other end refuses, and for what it may not ask.
    """
    with socket.socket() as sock:
        set_congestion(sock, congestion)
        sock.settimeout(CONNECT_S)
        try:
            if own:
                sock.bind((own, 0))
            sock.connect((host, port))
        except OSError as error:
            where = f"from {own} to {host}:{port}" if own else f"{host}:{port}"
            raise LinkError(f"{where}: {error.strerror or error}; valid: what `splitcom link check` prints") from None
        peer = Peer(sock)
        if name:
            peer.say({"name": name})
        return Client(peer).run()


class Client:
    """Does what it is told over a connection."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._actions = {
            "up": self._up,
            "down": self._down,
            "delay": self._delay,
            "datagrams_up": self._datagrams_up,
            "datagrams_down": self._datagrams_down,
        }

    def run(self) -> int:
        """Until the connection ends; how many jobs were done. LinkError for a job that it does not do."""
        done = 0
        try:
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    self._do(self._peer.hear(None))
                    done += 1
        except OSError as error:
            raise LinkError(f"the connection failed: {error.strerror or error}") from None
        return done

    def _do(self, job: Message) -> None:
        if "error" in job:
            told = "".join(character for character in str(job["error"]) if character.isprintable())
            raise LinkError(f"the other end refuses: {told[:TEXT_MAX]}")
        action = self._actions.get(str(job.get("do")))
        if action is None:
            raise LinkError(f"the other end asks for {ascii(job.get('do'))[:40]}; valid: {', '.join(self._actions)}")
        self._peer.say(action(job))

    def _up(self, job: Message) -> Message:
        return {"began": self._peer.pour(whole(job, "bytes", bounds.BYTES_MAX))}

    def _down(self, job: Message) -> Message:
        return self._peer.sink(whole(job, "bytes", bounds.BYTES_MAX))

    def _delay(self, job: Message) -> Message:
        times: dict[str, list[float]] = {"up": [], "down": []}
        for _ in range(whole(job, "count", bounds.MESSAGES_MAX)):
            sent = time.monotonic()
            self._peer.sock.sendall(TIME.pack(sent))
            there = TIME.unpack(self._peer.exactly(TIME.size))[0]
            times["down"].append(time.monotonic() - there)
            times["up"].append(there - sent)
        return times

    def _datagrams_up(self, job: Message) -> Message:
        count, size = datagrams(job)
        to = self._peer.host, whole(job, "port", 65535)
        pace(self._peer.own_host, to, count, number(job, "gap", bounds.GAP_MIN_S, bounds.GAP_MAX_S), size)
        return {}

    def _datagrams_down(self, job: Message) -> Message:
        with Collector(self._peer, *datagrams(job)) as collector:
            self._peer.say({"port": collector.port})
            self._peer.hear(None)  # that all are sent
        return collector.answer()


def datagrams(job: Message) -> tuple[int, int]:
    """How many datagrams a job is about, and how large they are in bytes; LinkError beyond the bounds."""
    return whole(job, "count", bounds.DATAGRAMS_MAX), whole(job, "size", bounds.DATAGRAM_BYTES_MAX, low=8)

"""Many connections, each kind a process: a crowd with an echo, idle ones, and a subscriber that reads slowly."""

from __future__ import annotations

import json
import select
import selectors
import sys
import time
from typing import Any

from broker.errors import BrokerError
from broker.packets import Publish
from testbed.bench.broker_client import LoadClient, grant_credit, take_credit
from testbed.bench.broker_job import Job
from testbed.bench.broker_statistics import percentile

SLOW_BUFFER_BYTES = 1 << 16
SLOW_TICK_S = 0.05


def echo(job: Job) -> dict[str, Any]:
    """One client that sends every message of `up/NUMBER` back on `down/NUMBER`, until an empty one comes."""
    client = LoadClient(job.address, "bench-echo")
    client.subscribe("up/+", job.qos)
    grant_credit(job.credit, 1)
    echoed = 0
    while True:
        for packet in client.packets():
            # The PUBACKs of what was sent back come here as well.
            if isinstance(packet, Publish):
                client.acknowledge([packet])
                if not packet.payload:
                    client.close()
                    return {"echoed": echoed}
                client.publish(packet.topic.replace("up/", "down/"), packet.payload, job.qos)
                echoed += 1


def crowd(job: Job) -> dict[str, Any]:
    """In each of `messages` rounds all clients send one message at once and await its echo; round trips in ms."""
    take_credit(job.credit)
    clients = [LoadClient(job.address, f"bench-{number}") for number in range(job.clients[0])]
    waiting = _Waiting(clients, job)
    payload = bytes(job.size)
    for number, client in enumerate(clients):
        client.subscribe(f"down/{number}", job.qos)
    for _ in range(job.warm + job.messages):
        for number, client in enumerate(clients):
            waiting.since[client] = time.monotonic()
            client.publish(f"up/{number}", payload, job.qos)
            waiting.read(0)
        while waiting.since:
            waiting.read(None)
    clients[0].publish("up/end", b"", job.qos)
    for client in clients:
        client.close()
    measured = waiting.round_trips_ms[job.warm * len(clients) :]
    return {"p50_ms": percentile(measured, 0.5), "p99_ms": percentile(measured, 0.99)}


class _Waiting:
    """Who awaits an echo since when."""

    def __init__(self, clients: list[LoadClient], job: Job) -> None:
        self.since: dict[LoadClient, float] = {}
        self.round_trips_ms: list[float] = []
        self._size = job.size
        self._selector = selectors.DefaultSelector()
        for client in clients:
            self._selector.register(client, selectors.EVENT_READ)

    def read(self, timeout_s: float | None) -> None:
        """Take in what can be read, once there is something or the time is over."""
        for key, _ in self._selector.select(timeout_s):
            client = key.fileobj
            assert isinstance(client, LoadClient)
            for packet in client.packets():
                if isinstance(packet, Publish):
                    if len(packet.payload) != self._size:
                        raise BrokerError(f"an echo of {len(packet.payload)} bytes; valid: {self._size}")
                    self.round_trips_ms.append(1e3 * (time.monotonic() - self.since.pop(client)))
                    client.acknowledge([packet])


def idle(job: Job) -> dict[str, Any]:
    """Connections with one subscription each that do nothing; at each number of them a line is said and one awaited."""
    clients: list[LoadClient] = []
    for number in job.clients:
        while len(clients) < number:
            clients.append(LoadClient(job.address, f"idle-{len(clients)}"))
            clients[-1].subscribe(f"idle/{len(clients)}", 1)
        print(json.dumps({"connections": number}), flush=True)
        sys.stdin.readline()
    for client in clients:
        client.close()
    return {}


def slow(job: Job) -> dict[str, Any]:
    """A subscriber that takes `bytes_per_s` from the broker until standard input ends; says when it has subscribed."""
    client = LoadClient(job.address, "bench-slow", SLOW_BUFFER_BYTES)
    client.subscribe(job.topic, job.qos)
    print(json.dumps({"subscribed": True}), flush=True)
    connected, taken = True, 0
    began = time.monotonic()
    while not select.select([sys.stdin], [], [], SLOW_TICK_S)[0]:
        allowed = int((time.monotonic() - began) * job.bytes_per_s) - taken
        if connected and allowed > 0 and select.select([client], [], [], 0)[0]:
            try:
                client.acknowledge(packet for packet in client.packets(allowed) if isinstance(packet, Publish))
            except (BrokerError, OSError):
                connected = False
            taken += allowed
    return {"connected": connected}

"""Publisher and subscriber, each a process: how fast messages get from one to the other, and how soon.

Throughput with a window of many messages and latency with a window of one are the same measurement. Both processes
read the same monotonic clock, so that the time of one way is known without a reply.
"""

from __future__ import annotations

import select
import struct
import time
from typing import Any

from broker.errors import BrokerError
from testbed.bench.broker_client import LoadClient, grant_credit, take_credit
from testbed.bench.broker_job import Job
from testbed.bench.broker_statistics import percentile
from testbed.bench.broker_usage import Usage

STAMP = struct.Struct("<Qd")
"""How each message begins: its number, and when it was published in seconds of the monotonic clock."""


class Receipts:
    """What the receiving end has seen; BrokerError for a message that is not the next one."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._usage = Usage(job.pid)
        self._latencies_s: list[float] = []
        self._began = (0.0, 0.0)
        self.left = job.warm + job.messages

    def take(self, payload: bytes | memoryview) -> None:
        """Count one message; measuring begins with the last of those that warm up."""
        now = time.monotonic()
        number, sent = STAMP.unpack_from(payload)
        expected = self._job.warm + self._job.messages - self.left
        if number != expected or len(payload) != self._job.size:
            raise BrokerError(f"message {number} of {len(payload)} bytes instead of message {expected}")
        self.left -= 1
        self._latencies_s.append(now - sent)
        if number == self._job.warm - 1:
            self._began = (now, self._usage.cpu_s())

    def figures(self) -> dict[str, Any]:
        """MB/s, the broker's CPU seconds per GB of payload, and latencies in ms; to be read when `left` is 0."""
        seconds = time.monotonic() - self._began[0]
        cpu_s = self._usage.cpu_s() - self._began[1]
        bytes_moved = self._job.messages * self._job.size
        measured_ms = [1e3 * latency_s for latency_s in self._latencies_s[self._job.warm :]]
        return {
            "mb_per_s": bytes_moved / seconds / 1e6,
            "cpu_s_per_gb": cpu_s / bytes_moved * 1e9,
            "p50_ms": percentile(measured_ms, 0.50),
            "p99_ms": percentile(measured_ms, 0.99),
        }


def subscriber(job: Job) -> dict[str, Any]:
    """Receive all messages of the job and say how they came."""
    client = LoadClient(job.address, "bench-subscriber")
    client.subscribe(job.topic, job.qos)
    receipts = Receipts(job)
    grant_credit(job.credit, job.window)
    while receipts.left:
        messages = client.messages()
        for message in messages:
            receipts.take(memoryview(message.payload))
        client.acknowledge(messages)
        if messages:
            grant_credit(job.credit, len(messages))
    figures = receipts.figures()
    client.close()
    return figures


def publisher(job: Job) -> dict[str, Any]:
    """Publish all messages of the job, each when there is credit for it, and stay until they have been delivered."""
    client = LoadClient(job.address, "bench-publisher")
    payload = bytearray(job.size)
    total = job.warm + job.messages
    published = credit = acknowledged = 0
    # All credit is back when all is delivered.
    while published < total or credit < job.window or acknowledged < total * job.qos:
        if credit and published < total:
            STAMP.pack_into(payload, 0, published, time.monotonic())
            client.publish(job.topic, payload, job.qos)
            published, credit = published + 1, credit - 1
            continue
        ready, _, _ = select.select([job.credit, client.fileno()], [], [])
        if job.credit in ready:
            credit += take_credit(job.credit)
        if client.fileno() in ready:
            acknowledged += len(client.packets())
    client.close()
    return {"published": total}

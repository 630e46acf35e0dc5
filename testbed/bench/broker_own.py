"""Publisher and subscriber of `broker_pair` on the client that the channels use, without their envelopes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from broker.login import Login
from broker.mqtt_connection import MqttConnection
from broker.mqtt_protocol import OnChunk
from testbed.bench.broker_client import grant_credit, take_credit
from testbed.bench.broker_job import Job
from testbed.bench.broker_pair import STAMP, Receipts

TIMEOUT_S = 10.0
KEEPALIVE_S = 60
PROTOCOL = "3.1.1"  # as the rest of the load


def subscriber(job: Job) -> dict[str, Any]:
    """Receive all messages of the job with QoS 1 and say how they came."""
    return asyncio.run(_subscribe(job))


def publisher(job: Job) -> dict[str, Any]:
    """Publish all messages of the job with QoS 1, each when there is credit for it."""
    return asyncio.run(_publish(job))


async def _subscribe(job: Job) -> dict[str, Any]:
    done = asyncio.Event()
    receipts = Receipts(job)

    def on_message(_topic: str, payload: memoryview, acknowledge: Callable[[], None] | None) -> None:
        assert acknowledge is not None  # all of it is QoS 1
        try:
            receipts.take(payload)
        except BaseException as error:
            failure.append(error)
            done.set()
            return
        acknowledge()
        grant_credit(job.credit, 1)
        if not receipts.left:
            done.set()

    failure: list[BaseException] = []
    connection = _connection(job, "subscriber", on_message)
    await connection.open()
    await connection.subscribe([job.topic])
    grant_credit(job.credit, job.window)
    await done.wait()
    if failure:
        raise failure[0]
    figures = receipts.figures()
    await connection.close()
    return figures


async def _publish(job: Job) -> dict[str, Any]:
    connection = _connection(job, "publisher", lambda *_: None)
    await connection.open()
    loop = asyncio.get_running_loop()
    granted = asyncio.Semaphore(0)

    def on_credit() -> None:
        for _ in range(take_credit(job.credit)):
            granted.release()

    loop.add_reader(job.credit, on_credit)
    total = job.warm + job.messages
    filling = memoryview(bytes(job.size - STAMP.size))
    acknowledged: list[asyncio.Future[None]] = []
    for number in range(total):
        await granted.acquire()
        acknowledged.append(loop.create_future())
        connection.publish(job.topic, STAMP.pack(number, time.monotonic()), filling, done=acknowledged[-1])
    await asyncio.gather(*acknowledged)
    loop.remove_reader(job.credit)
    await connection.close()
    return {"published": total}


def _connection(job: Job, name: str, on_message: OnChunk) -> MqttConnection:
    login = Login(job.host, job.port, f"bench-own-{name}", KEEPALIVE_S, TIMEOUT_S)
    return MqttConnection(login, PROTOCOL, (f"bench/will/{name}", b""), on_message)

"""One end of a channel as a process: `python -m tests.broker.link_end server|a HOST PORT SEND EXPECT [KEY=VALUE ...]`.

It sends a bulk message of SEND bytes to the other end, if any, and small control messages meanwhile, and waits for a
bulk message where EXPECT is 1. Then it prints a line of JSON: the seconds until its part was done, the delays in
seconds of the control messages that came meanwhile, chunks of bulk that it sent, its connections, the CRC-32 of the
bulk it sent and received, and the most memory that it held. It leaves when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import zlib
from typing import Any

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from broker.messages import ActivationUp, Failure, GradientDown, State, StepRefused
from broker.program import peak_bytes
from broker.settings import build, from_assignments

EVERY_S = 0.1
SERVER_SIDE = GradientDown, lambda payload: GradientDown(1, payload, 0.0), lambda text: StepRefused(1, text, [])
AGENT_SIDE = ActivationUp, lambda payload: ActivationUp(1, 0, payload, b"", -1, []), Failure


async def play(name: str, host: str, port: int, send: int, expect: bool, config: ChannelConfig) -> None:
    peer = "a" if name == "server" else "server"
    kind, bulk, control = SERVER_SIDE if name == "server" else AGENT_SIDE
    report: dict[str, Any] = {"delays": [], "sent_crc": 0, "received_crc": 0}
    arrived = asyncio.Event()

    async def chat(channel: MqttChannel) -> None:
        async with asyncio.TaskGroup() as sends:
            while True:
                sends.create_task(channel.send(peer, control(str(time.monotonic()))))
                await asyncio.sleep(EVERY_S)

    async def say(channel: MqttChannel) -> None:
        if send:
            payload = bytes(range(256)) * (send // 256)
            report["sent_crc"] = zlib.crc32(payload)
            await channel.send(peer, bulk(payload))

    async def listen(channel: MqttChannel) -> None:
        while True:
            _, message = await channel.receive()
            if isinstance(message, StepRefused | Failure):
                report["delays"].append(time.monotonic() - float(message.reason))
            elif isinstance(message, GradientDown | ActivationUp):
                report["received_crc"] = zlib.crc32(message.packet)
                arrived.set()

    async with MqttChannel("run", name, host, port, config) as channel:
        while not isinstance((await channel.receive())[1], State):
            pass
        began, beside = time.monotonic(), [asyncio.create_task(work(channel)) for work in (chat, listen)]
        await say(channel)
        if expect:
            await arrived.wait()
        report["seconds"] = time.monotonic() - began
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        report["chunks"] = channel.sent[kind.__name__].chunks if send else 0
        report |= {"connections": channel.tcp()["connections"], "peak_bytes": peak_bytes()}
        print(json.dumps(report), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    name, host, port, send, expect, *settings = sys.argv[1:]
    config = build(ChannelConfig, from_assignments(settings))
    asyncio.run(play(name, host, int(port), int(send), expect == "1", config))

"""The emulators' program: `python -m testbed.links.emulator tun|proxy`, told by JSON lines what to do.

A process of its own, since pacing packets does not go with anything else; with real-time priority where it may. A line
on standard input is a command, and each gets one line in answer, `{"ok": true, ...}` or `{"ok": false, "error": ...}`:
`open`, `target`, `set` and `counters`. It ends with its standard input, and its devices with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.engines import Address
from broker.errors import BrokerError
from testbed.links.alarm import Alarm
from testbed.links.errors import LinkError
from testbed.links.profile import from_table
from testbed.links.proxy_emulator import ProxyEmulator
from testbed.links.tun_emulator import TunEmulator

LINE_BYTES = 1 << 24  # profiles of a thousand clients in one line
FIFO_PRIORITY, NICENESS = 5, -10


def prioritize() -> str:
    """Take precedence over other programs, as far as that is allowed: `fifo`, `nice` or `none`."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
        return "fifo"
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
        return "nice"
    return "none"


class Program:
    """Carries commands out, one after the other."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._alarm = Alarm()
        self._emulator: TunEmulator | ProxyEmulator | None = None

    async def answer(self, line: bytes) -> dict[str, Any]:
        """What a line gets in answer."""
        try:
            command = json.loads(line)
            actions = {"open": self._open, "target": self._target, "set": self._set, "counters": self._counters}
            if command["do"] not in actions:
                raise LinkError(f"{command['do']!r} is no command; valid: {', '.join(actions)}")
            return {"ok": True, **await actions[command["do"]](command)}
        except OSError as error:
            return {"ok": False, "error": f"{error.filename or 'emulator'}: {error.strerror}"}
        except KeyError as error:
            return {"ok": False, "error": f"{error} is missing"}
        except (BrokerError, ValueError, TypeError, AttributeError) as error:
            return {"ok": False, "error": " ".join(str(error).split())}

    async def _open(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if self._emulator is not None:
            raise LinkError("the links are open already")
        priority = prioritize()
        if self._kind == "tun":
            self._emulator = TunEmulator(self._alarm, command["server"], command["clients"])
            return {"priority": priority}
        proxy = ProxyEmulator(self._alarm, command["congestion"], command["clients"])
        try:
            await proxy.open()
        except BaseException:
            proxy.close()
            raise
        self._emulator = proxy
        return {"priority": priority, "ports": proxy.ports}

    async def _target(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(self._emulator, ProxyEmulator):
            raise LinkError("only a proxy that is open has a target")
        host, port = command["host"], command["port"]
        if not isinstance(host, str) or not isinstance(port, int) or not 0 < port < 1 << 16:
            raise LinkError(f"{host!r} and {port!r} are no target; valid: a host, and a port from 1 to 65535")
        self._emulator.target = Address(host, port)
        return {}

    async def _set(self, command: Mapping[str, Any]) -> dict[str, Any]:
        opened = self._opened()
        if command["client"] not in opened.flows:
            raise LinkError(f"{command['client']!r} is no client; valid: {', '.join(opened.flows)}")
        opened.change(command["client"], from_table(command["profile"], Path()))
        return {}

    async def _counters(self, command: Mapping[str, Any]) -> dict[str, Any]:
        opened = self._opened()
        late = sorted(1000 * s for ways in opened.flows.values() for flow in ways.values() for s in flow.lateness_s)
        counted: dict[str, Any] = {
            "clients": {name: {way: flow.counts() for way, flow in ways.items()} for name, ways in opened.flows.items()}
        }
        if late:
            places = {"median": statistics.median(late), "p99": late[len(late) * 99 // 100], "max": late[-1]}
            counted["lateness_ms"] = {key: round(value, 3) for key, value in places.items()}
        if isinstance(opened, TunEmulator):
            counted["strays"] = opened.strays
        else:
            counted["sockets"] = dict(opened.congestion)
        return counted

    def _opened(self) -> TunEmulator | ProxyEmulator:
        if self._emulator is None:
            raise LinkError("no links are open")
        return self._emulator

    def close(self) -> None:
        """Give everything back."""
        if self._emulator is not None:
            self._emulator.close()
        self._alarm.close()


async def run(kind: str) -> None:
    """Answer standard input until it ends, or until a signal."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, reader.feed_eof)
    program = Program(kind)
    try:
        while (line := await reader.readline()).endswith(b"\n"):
            print(json.dumps(await program.answer(line)), flush=True)
    finally:
        program.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m testbed.links.emulator", allow_abbrev=False)
    parser.add_argument("kind", choices=("tun", "proxy"))
    asyncio.run(run(parser.parse_args().kind))

"""Which MQTT broker a run uses: our own, a mosquitto that we start, or one that runs already.

Each engine is an async context manager that yields the broker's `Address`. A process that an engine starts is ended,
by its pid, when the context is left, and has ended when the exit returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from broker.child import end, started, tail
from broker.errors import ConnectError, SettingsError
from broker.mosquitto_config import queue_limits

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
READY_S = 15.0
CONNECT_S = 5.0
QUEUE_BYTES = 48 << 20

_POLL_S = 0.02
_PORT_ATTEMPTS = 5
_RUNNING = " running"  # how mosquitto ends the line that says it listens


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int


@dataclass(frozen=True)
class Place:
    """Where a broker is started: the address it listens on, and what stands before a command to run it there.

    `congestion` is the congestion control of its connections; empty leaves the system's own.
    """

    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    congestion: str = ""


HERE = Place()


def engine(spec: str, directory: Path, place: Place = HERE) -> AbstractAsyncContextManager[Address]:
    """The engine that `spec` names: `embedded`, `mosquitto`, or `mqtt://host:port` and `mqtts://host:port`.

    Its log, its configuration and, for `embedded`, its last counters (`broker.json`) are written to `directory`.
    Raises SettingsError for any other name; entering raises ConnectError where no broker can be had.
    """
    name = "external" if "://" in spec else spec
    if name not in ENGINES or spec == "external":
        raise SettingsError(f"broker: {spec!r} is unknown; valid: embedded, mosquitto, mqtt://host:port, mqtts://...")
    if name == "external":
        parse_url(spec)
    return ENGINES[name](spec, directory, place)


def parse_url(url: str) -> Address:
    """Host and port of `mqtt://host:port` or `mqtts://host:port`; SettingsError for anything else."""
    problem = SettingsError(f"broker: {url!r} is no broker; valid: mqtt://host:port, mqtts://host:port")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise problem from None
    if not host or parts.scheme not in DEFAULT_PORTS or parts.username or parts.path.strip("/") or parts.query:
        raise problem
    return Address(host, DEFAULT_PORTS[parts.scheme] if port is None else port)


def is_secure(url: str) -> bool:
    """Whether a URL that `parse_url` takes asks for TLS."""
    return urlsplit(url).scheme == "mqtts"


@asynccontextmanager
async def external(spec: str, directory: Path, place: Place) -> AsyncIterator[Address]:
    """A broker that somebody else runs, wherever that is; it only has to accept a TCP connection."""
    address = parse_url(spec)
    await _probe(address, CONNECT_S)
    yield address


@asynccontextmanager
async def embedded(spec: str, directory: Path, place: Place) -> AsyncIterator[Address]:
    """Our own broker in a process of its own, on a free port."""
    # A place that is not of this machine's own network can be reached by nobody but the run.
    flags = ["--events", "--attached", "--host", place.host, "--port", "0"] + ["--insecure"] * bool(place.prefix)
    command = [*place.prefix, sys.executable, "-m", "broker", *flags, "--set", f"congestion={place.congestion}"]
    async with started(command, directory / "broker.log") as process:
        assert process.stdout is not None
        ready = await _event(process, directory / "broker.log")
        rest = asyncio.create_task(process.stdout.read(), name="broker events")
        try:
            yield Address(ready["host"], ready["port"])
        finally:
            await end(process)
            lines = (await rest).splitlines()
            if lines:
                (directory / "broker.json").write_bytes(lines[-1] + b"\n")


@asynccontextmanager
async def mosquitto(spec: str, directory: Path, place: Place) -> AsyncIterator[Address]:
    """Mosquitto from the system, on a free port, from a configuration written to the directory."""
    binary = find_mosquitto()
    if binary is None:
        raise SettingsError("broker: no program mosquitto on PATH or in /usr/sbin; valid: embedded, mqtt://host:port")
    log = directory / "mosquitto.log"
    for attempt in range(_PORT_ATTEMPTS):
        address = Address(place.host, _free_port())
        configuration = directory / "mosquitto.conf"
        configuration.write_text(mosquitto_configuration(address), encoding="utf-8")
        command = [*place.prefix, sys.executable, "-m", "broker.attached", binary, "-c", str(configuration)]
        before = _times_running(log)
        async with started(command, log) as process:
            try:
                await _listening(process, log, before)
            except ConnectError:
                # Somebody else may have taken the free port before mosquitto did.
                if attempt + 1 < _PORT_ATTEMPTS and "in use" in tail(log):
                    continue
                raise
            yield address
            return


ENGINES: dict[str, Callable[[str, Path, Place], AbstractAsyncContextManager[Address]]] = {
    "embedded": embedded,
    "mosquitto": mosquitto,
    "external": external,
}


def find_mosquitto() -> str | None:
    """The path of the mosquitto program; Debian puts it where a user's PATH does not reach."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def mosquitto_configuration(address: Address) -> str:
    """A configuration that bounds every queue in bytes, as far as mosquitto can; its defaults count messages only."""
    return "\n".join(
        (
            f"listener {address.port} {address.host}",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "persistence false",
            *queue_limits(QUEUE_BYTES),
            "log_dest stderr",  # what goes to standard output stays in a buffer
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            "",
        )
    )


async def _event(process: asyncio.subprocess.Process, log: Path) -> dict[str, Any]:
    """The first event of our own broker, which is `ready`."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            line = await process.stdout.readline()
    except TimeoutError:
        raise ConnectError(f"the embedded broker was not ready within {READY_S:g} s; its log is {log}") from None
    if not line:
        raise ConnectError(f"the embedded broker did not start: {tail(log) or 'it said nothing'}")
    event: dict[str, Any] = json.loads(line)
    return event


async def _listening(process: asyncio.subprocess.Process, log: Path, before: int) -> None:
    """Wait until mosquitto says once more that it runs; ConnectError where it ends first or takes longer than READY_S.

    Its log is asked and not its port, which may be in a network that this process is not in.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S
    while _times_running(log) == before:
        if process.returncode is not None:
            raise ConnectError(f"mosquitto did not start: {tail(log) or 'it said nothing'}")
        if loop.time() > deadline:
            raise ConnectError(f"mosquitto was not ready within {READY_S:g} s; its log is {log}")
        await asyncio.sleep(_POLL_S)


def _times_running(log: Path) -> int:
    return log.read_text(encoding="utf-8", errors="replace").count(_RUNNING) if log.exists() else 0


async def _probe(address: Address, timeout_s: float) -> None:
    """Connect and close again; ConnectError names host, port and reason."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        raise ConnectError(f"no connection to {address.host}:{address.port}: no answer") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConnectError(f"no connection to {address.host}:{address.port}: {reason}") from None
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

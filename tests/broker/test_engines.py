"""Engines: each yields a broker that works, and leaves no process behind."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import aiomqtt
import pytest

from broker import engines
from broker.engines import ENGINES, QUEUE_BYTES, Address, engine, find_mosquitto, mosquitto_configuration, parse_url
from broker.errors import ConnectError, SettingsError
from broker.mosquitto_config import queue_limits
from broker.server import Broker, BrokerConfig

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="no program mosquitto on PATH or in /usr/sbin")
OWN = ["embedded", pytest.param("mosquitto", marks=needs_mosquitto)]


async def round_trip(address: Address) -> None:
    """A message of 300 kB there and back at QoS 1."""
    async with aiomqtt.Client(address.host, address.port, identifier="probe", timeout=10) as client:
        await client.subscribe("t", qos=1)
        await client.publish("t", bytes(300_000), qos=1)
        async with asyncio.timeout(10):
            assert len((await anext(aiter(client.messages))).payload) == 300_000  # type: ignore[arg-type]


async def refuses(address: Address) -> bool:
    """Whether nothing listens there any more."""
    try:
        _, writer = await asyncio.open_connection(*address)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def failing_run(spec: str, directory: Path, addresses: list[Address]) -> None:
    """Note the address, then fail while the engine runs."""
    async with engine(spec, directory) as address:
        addresses.append(address)
        raise RuntimeError("the run failed")


@pytest.mark.parametrize("spec", OWN)
def test_an_engine_serves_and_then_is_gone(spec: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(spec, tmp_path) as address:
            assert address.host == "127.0.0.1"
            await round_trip(address)
        assert await refuses(address)

    asyncio.run(scenario())


@pytest.mark.parametrize("spec", OWN)
def test_an_engine_is_ended_when_its_user_fails(spec: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        addresses: list[Address] = []
        with pytest.raises(RuntimeError, match="the run failed"):
            await failing_run(spec, tmp_path, addresses)
        assert await refuses(addresses[0])

    asyncio.run(scenario())


def test_the_embedded_engine_leaves_its_counters(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine("embedded", tmp_path) as address:
            await round_trip(address)

    asyncio.run(scenario())
    summary = json.loads((tmp_path / "broker.json").read_text())
    assert summary["clients"]["probe"]["bytes_in"] > 300_000
    assert summary["clients"]["probe"]["bytes_out"] > 300_000


def test_the_embedded_engine_is_not_moved_by_settings_for_another_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITCOM_BROKER_MAX_CONNECTIONS", "none of your business")

    async def scenario() -> None:
        async with engine("embedded", tmp_path) as address:
            await round_trip(address)

    asyncio.run(scenario())


def test_an_embedded_broker_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.sys, "executable", "/bin/false")

    async def scenario() -> None:
        with pytest.raises(ConnectError, match="the embedded broker did not start: it said nothing"):
            async with engine("embedded", tmp_path):
                pass

    asyncio.run(scenario())


@pytest.mark.parametrize("spec", OWN)
def test_no_engine_outlives_a_user_who_is_killed(spec: str, tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys; from broker.engines import engine\n"
        "async def go():\n"
        "    async with engine(sys.argv[1], pathlib.Path(sys.argv[2])) as address:\n"
        "        print(address.port, flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(go())"
    )

    async def scenario() -> None:
        command = [sys.executable, "-c", script, spec, str(tmp_path)]
        user = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert user.stdout is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", int(await user.stdout.readline()))
        user.kill()
        async with asyncio.timeout(10):
            assert await reader.read() == b""  # whoever listened has ended, or it would wait for a greeting
        writer.close()
        await user.wait()

    asyncio.run(scenario())


@needs_mosquitto
def test_mosquitto_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "mosquitto_configuration", lambda address: "no_such_option 1\n")

    async def scenario() -> None:
        with pytest.raises(ConnectError, match="mosquitto did not start: "):
            async with engine("mosquitto", tmp_path):
                pass

    asyncio.run(scenario())
    assert "no_such_option" in (tmp_path / "mosquitto.log").read_text()


@needs_mosquitto
def test_mosquitto_takes_another_port_when_the_first_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        # Bound and not listening: mosquitto cannot have the port, and nobody answers on it.
        taken.bind(("127.0.0.1", 0))
        free = engines._free_port
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(engines, "_free_port", lambda: ports.pop() if ports else free())

        async def scenario() -> None:
            async with engine("mosquitto", tmp_path) as address:
                assert address.port != taken.getsockname()[1]
                await round_trip(address)

        asyncio.run(scenario())


def test_a_missing_mosquitto_is_an_error_with_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_mosquitto", lambda: None)

    async def scenario() -> None:
        with pytest.raises(SettingsError, match=r"no program mosquitto.*valid: embedded, mqtt://host:port"):
            async with engine("mosquitto", tmp_path):
                pass

    asyncio.run(scenario())


def test_mosquitto_is_bounded_in_bytes_and_local() -> None:
    lines = mosquitto_configuration(Address("127.0.0.1", 4711)).splitlines()
    assert "listener 4711 127.0.0.1" in lines
    assert {"set_tcp_nodelay true", "persistence false", "allow_anonymous true"} <= set(lines)
    assert set(queue_limits(QUEUE_BYTES)) <= set(lines)


def test_an_external_broker_is_used_where_it_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Broker(BrokerConfig(port=0)) as broker:
            host, port = broker.address
            async with engine(f"mqtt://{host}:{port}", tmp_path) as address:
                assert address == (host, port)
                await round_trip(address)

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_an_external_broker_that_does_not_run_is_named_with_the_reason(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        async def scenario() -> None:
            with pytest.raises(ConnectError, match=f"127.0.0.1:{port}: Connection refused"):
                async with engine(f"mqtt://127.0.0.1:{port}", tmp_path):
                    pass

        asyncio.run(scenario())


@pytest.mark.parametrize(
    "spec", ["", "rabbit", "external", "tcp://host:1", "mqtt://", "mqtt://host:x", "mqtt://u@host", "mqtt://host/path"]
)
def test_an_unknown_engine_is_answered_with_the_valid_ones(spec: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="mqtt://host:port") as caught:
        engine(spec, tmp_path)
    assert repr(spec) in str(caught.value)


def test_the_port_of_a_url_may_be_left_out() -> None:
    assert parse_url("mqtt://broker.example") == ("broker.example", 1883)
    assert parse_url("mqtt://[::1]:4711/") == ("::1", 4711)


def test_every_engine_is_listed() -> None:
    assert set(ENGINES) == {"embedded", "mosquitto", "external"}

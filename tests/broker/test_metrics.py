"""The page for Prometheus: its format, its values, and where it is served."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.broker_config import BrokerConfig
from broker.counters import ConnectionCount
from broker.errors import ConnectError
from broker.metrics import render
from broker.packets import Puback, Publish
from broker.properties import Property
from broker.server import Broker
from broker.store import Store
from tests.broker.raw import connected, open_client, publish
from tests.broker.serving import serving
from tests.broker.test_sys_topics import QUIET
from tests.broker.websockets import connected_websocket

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
UNESCAPED = {r"\\": "\\", r"\n": "\n", r"\"": '"'}

Page = dict[str, dict[tuple[tuple[str, str], ...], float]]


def parse(page: str) -> Page:
    """Values by name and labels; fails where the page breaks the format, version 0.0.4."""
    assert page.endswith("\n")
    found: Page = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    current = ""
    for line in page.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            current = line.split(" ", 3)[2]
            assert current not in helped, f"{current} comes twice"
            helped.add(current)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current
            assert (kind == "counter") == name.endswith("_total")
            kinds[name], found[name] = kind, {}
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1] == current, f"{line} stands below {current}"
            labels = tuple(
                (name, re.sub(r"\\.", lambda escape: UNESCAPED[escape[0]], text))
                for name, text in re.findall(LABEL, sample[2] or "")
            )
            assert labels not in found[current], f"{line} comes twice"
            found[current][labels] = float(line.rpartition(" ")[2])
    assert helped == set(kinds)
    return found


async def scrape(broker: Broker) -> Page:
    async with aiohttp.ClientSession() as session, session.get(broker.urls["metrics"]) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(await response.text())


def metered(**values: Any) -> Broker:
    """A broker with metrics on a free port."""
    return serving(metrics_port=0, **values)


def test_values_are_those_of_the_broker() -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(metered())
            client = await stack.enter_async_context(
                connected(broker.address, "c", properties={Property.RECEIVE_MAXIMUM: 2})
            )
            await client.subscribe("t", 1)
            for number in range(5):
                broker.publish("t", bytes([number]), qos=1)
            await client.expect(Publish)
            await client.expect(Publish)
            await client.send(publish("r", b"kept", retain=True, qos=1))
            await client.receive()
            stranger = await stack.enter_async_context(open_client(broker.address))
            await stranger.send_bytes(b"\x00\x00")
            await stranger.ended()
            page = await scrape(broker)
            counted = broker.snapshot()
        values = {name.removeprefix("splitcom_broker_"): value.get(()) for name, value in page.items()}
        assert {name: values[name] for name in values if name.startswith(("mess", "retained_m", "sess", "subs"))} == {
            "messages_waiting": 3,
            "messages_unacknowledged": 2,
            "messages_dropped_total": 0,
            "messages_expired_total": 0,
            "retained_messages": 1,
            "sessions_connected": 1,
            "sessions_connected_max": 1,
            "sessions_disconnected": 0,
            "sessions_expired_total": 0,
            "subscriptions": 1,
        }
        assert (values["connections_total"], values["connections_refused_total"]) == (2, 1)
        assert (values["publishes_received_total"], values["publishes_sent_total"]) == (1, 2)
        assert (values["packets_received_total"], values["packets_sent_total"]) == (4, 5)
        assert values["bytes_received_total"] == counted["traffic"]["bytes_in"]
        assert values["bytes_sent_total"] == counted["traffic"]["bytes_out"]
        assert values["queued_bytes"] == counted["queued_bytes"] > 0
        assert values["retained_bytes"] == counted["retained"]["bytes"] > 0
        assert page["splitcom_broker_connections_ended_total"] == {(("reason", "protocol_error"),): 1}
        assert page["process_resident_memory_bytes"][()] > 1 << 20
        assert page["process_open_fds"][()] > 3

    asyncio.run(scenario())


def test_a_store_has_values_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "store", Store._write

    def failing(store: Store, batch: dict[object, object]) -> None:
        raise sqlite3.OperationalError("the disk is full")

    async def values(broker: Broker) -> dict[str, float]:
        page = await scrape(broker)
        start = "splitcom_broker_store_"
        return {name.removeprefix(start): value[()] for name, value in page.items() if name.startswith(start)}

    async def scenario() -> None:
        async with metered() as broker:
            assert await values(broker) == {}
        async with metered(store=str(path)) as broker, connected(broker.address, "c") as client:
            before = await values(broker)
            assert (before["commits_total"], before["commit_seconds_total"], before["failing"]) == (0, 0, 0)
            assert before["bytes"] >= path.stat().st_size > 0
            for number in range(3):
                await client.send(publish(f"t/{number}", bytes(50_000), retain=True, qos=1))
                await client.expect(Puback)
            after = await values(broker)
            assert after["commits_total"] == 3
            assert after["commit_seconds_total"] > 0
            assert after["bytes"] > before["bytes"] + 3 * 50_000
            monkeypatch.setattr(Store, "_write", failing)
            await client.send(publish("t", b"x", retain=True, qos=1))
            await client.ended()
            assert (await values(broker))["failing"] == 1
            assert (await values(broker))["commits_total"] == 3
            monkeypatch.setattr(Store, "_write", write)

    asyncio.run(scenario())


def test_clients_have_values_of_their_own_only_where_asked_for_and_while_they_have_sessions() -> None:
    name = 'a "b"\\c'

    async def scenario() -> None:
        async with metered() as broker, connected(broker.address, name):
            assert not [family for family in await scrape(broker) if "client" in family]
        async with metered(metrics_clients=True) as broker:
            async with connected(broker.address, "gone"):
                pass
            async with connected(broker.address, name) as client:
                await client.send(publish("t"), publish("t"))
                await client.subscribe("t")
                page = await scrape(broker)
            clients = {labels for family, samples in page.items() if "_client_" in family for labels in samples}
            assert clients == {(("client", name),)}
            assert page["splitcom_broker_client_publishes_received_total"] == {(("client", name),): 2}

    asyncio.run(scenario())


def test_labels_are_escaped() -> None:
    page = render(QUIET, {'\\n"\n\\': ConnectionCount(bytes_in=7)})
    assert r'splitcom_broker_client_bytes_received_total{client="\\n\"\n\\"} 7' in page.split("\n")
    assert parse(page)["splitcom_broker_client_bytes_received_total"] == {(("client", '\\n"\n\\'),): 7}


def test_the_page_is_read_and_nothing_else() -> None:
    async def scenario() -> None:
        async with metered() as broker, aiohttp.ClientSession() as session:
            url = broker.urls["metrics"]
            for method, path, status in (
                ("HEAD", url, 200),
                ("POST", url, 405),
                ("GET", url + "/x", 404),
                ("GET", url.replace("/metrics", "/mqtt"), 404),
                ("GET", url + "?name[]=up", 200),
            ):
                async with session.request(method, path) as response:
                    assert response.status == status
            assert "websocket" not in broker.urls
            assert broker.snapshot()["totals"]["connections"] == 0

    asyncio.run(scenario())


def test_websocket_and_metrics_may_share_a_port() -> None:
    async def scenario() -> None:
        for _ in range(5):  # somebody else may take the free port first
            async with metered() as broker:
                port = broker.addresses[1][1]
            try:
                async with serving(websocket_port=port, metrics_port=port) as broker:
                    assert broker.urls == {
                        "websocket": f"ws://127.0.0.1:{port}/mqtt",
                        "metrics": f"http://127.0.0.1:{port}/metrics",
                    }
                    async with connected_websocket(broker, "c"):
                        page = await scrape(broker)
                        assert page["splitcom_broker_sessions_connected"] == {(): 1}
                return
            except ConnectError:
                continue
        raise AssertionError("no free port")

    asyncio.run(scenario())


def test_a_port_in_use_is_named() -> None:
    async def scenario() -> None:
        async with metered() as broker:
            port = broker.addresses[1][1]
            with pytest.raises(ConnectError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
                await serving(metrics_port=port).__aenter__()

    asyncio.run(scenario())


def test_other_machines_may_read_them_only_where_that_is_said() -> None:
    with pytest.raises(ValueError, match=r"^metrics_host: '0\.0\.0\.0' can be reached .* insecure = true$"):
        BrokerConfig(metrics_host="0.0.0.0", metrics_port=0)
    assert BrokerConfig(metrics_host="0.0.0.0", metrics_port=0, insecure=True)
    assert BrokerConfig(metrics_host="0.0.0.0")


@pytest.mark.parametrize("key", ["websocket_port", "metrics_port"])
def test_without_aiohttp_there_is_a_broker_but_no_http(key: str) -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from broker.server import Broker, BrokerConfig\n"
        f"Broker(BrokerConfig()); Broker(BrokerConfig({key}=0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        f"SettingsError: {key}: aiohttp is not installed; valid: none, or with splitcom[web]"
    )


def test_a_broker_without_http_does_not_load_aiohttp() -> None:
    code = "import sys, broker.__main__; from broker.server import Broker; Broker(); sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The broker's log: events with fields, as text and as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from typing import Any

import pytest

from broker import drop_log
from broker.errors import ProtocolError
from broker.log import MAX_CHARACTERS, JsonFormatter, TextFormatter, told
from broker.packet_encoder import encode
from broker.packets import V5, Connect, Disconnect, Publish
from broker.reasons import Reason
from tests.broker.raw import PATIENCE_S, connected, open_client, publish, until
from tests.broker.serving import reasons, serving
from tests.broker.test_broker_main import event, program

Events = list[dict[str, Any]]


def events(caplog: pytest.LogCaptureFixture, *kinds: str) -> Events:
    """What was told, as JSON says it, without the times."""
    found: Events = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    return [{k: v for k, v in fields.items() if k != "time"} for fields in found if fields["event"] in kinds]


def test_an_event_is_one_line_whatever_its_fields_hold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    name = 'a\nrefused: peer="x"\x1b[2J\x85'
    told("connected", client=name, peer="::1:80", session="new", text="", other=None)
    (record,) = caplog.records
    line = TextFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    head, _, quoted = line.partition("client=")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} connected: ", head)
    assert json.JSONDecoder().raw_decode(quoted)[0] == name
    assert quoted.endswith(" peer=::1:80 session=new")
    parsed = json.loads(JsonFormatter().format(record))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", parsed.pop("time"))
    assert parsed == {"event": "connected", "client": name, "peer": "::1:80", "session": "new"}


def test_a_long_text_is_cut_where_it_can_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told("forbidden", client="c" * MAX_CHARACTERS, topic="t" * (MAX_CHARACTERS + 1), messages=10**300)
    told("summary", clients={"c" * 1_000: {"bytes_in": 1}})
    fields, summary = events(caplog, "forbidden", "summary")
    assert fields["client"] == "c" * MAX_CHARACTERS
    assert fields["topic"] == "t" * (MAX_CHARACTERS - 3) + "..."
    assert fields["messages"] == 10**300
    assert summary["clients"] == {"c" * (MAX_CHARACTERS - 3) + "...": {"bytes_in": 1}}


def test_the_longest_client_id_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    name = "\x7f" * 65_535  # six characters each where it is quoted

    async def scenario() -> None:
        async with serving() as broker:
            async with open_client(broker.address) as client:
                await client.send(Connect(name))
                await client.receive()
            async with connected(broker.address, "c") as client:
                await client.send(publish("$SYS/" + name[5:]), publish("#" + name[1:]))
                await client.ended()

    asyncio.run(scenario())
    first, *_ = events(caplog, "connected", "refused")
    assert first["client"] == name[: MAX_CHARACTERS - 3] + "..."
    forbidden, ended = events(caplog, "forbidden", "ended")
    assert forbidden["topic"] == ("$SYS/" + name)[: MAX_CHARACTERS - 3] + "..."
    assert ended["text"].endswith("...")
    for form in (TextFormatter(), JsonFormatter()):
        assert all(len(form.format(record)) < 2 * 6 * MAX_CHARACTERS for record in caplog.records)


def test_a_reason_code_is_shown_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told("ended", code=Reason.QUOTA_EXCEEDED)
    told("disconnected", code=0xA1)
    told("refused", code=Reason.SERVER_UNAVAILABLE, reason="connect_timeout")
    assert [record.getMessage() for record in caplog.records] == [
        "ended: reason=quota_exceeded code=0x97",
        "disconnected: code=0xA1",
        "refused: reason=connect_timeout code=0x88",
    ]


def test_other_records_are_events_too(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ProtocolError("boom")
    except ProtocolError:
        logging.getLogger("elsewhere").exception("it failed: %d", 3)
    (found,) = events(caplog, "log")
    assert (found["level"], found["text"]) == ("error", "it failed: 3")
    assert found["trace"].endswith("ProtocolError: boom")


def test_what_happens_to_connections_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with serving(max_sessions=1) as broker:
            async with connected(broker.address, "c") as client:
                async with open_client(broker.address) as second:
                    await second.send(Connect("d"))
                    assert reasons(await second.ended()) == [Reason.QUOTA_EXCEEDED]
                await client.send(publish("$SYS/x"), publish("$SYS/x"), Disconnect())
                await client.ended()
            async with connected(broker.address, "c") as client:
                await client.send_bytes(b"\x00\x00")
                await client.ended()
            async with connected(broker.address, "c") as client:
                client.abort()
                await until(lambda: not broker.snapshot()["open_connections"])

    asyncio.run(scenario())
    told = events(caplog, "connected", "refused", "forbidden", "disconnected", "ended", "lost")
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", fields.pop("peer", "127.0.0.1:1")) for fields in told)
    assert [fields.pop("client") for fields in told] == ["c", "d"] + ["c"] * 6
    for fields in told:
        fields.pop("text", None)
    connected_anew = {"event": "connected", "session": "new"}
    assert told == [
        connected_anew,
        {"event": "refused", "reason": "quota_exceeded", "code": "0x97"},
        {"event": "forbidden", "topic": "$SYS/x"},
        {"event": "disconnected", "reason": "success", "code": "0x00"},
        connected_anew,
        {"event": "ended", "reason": "malformed_packet", "code": "0x81"},
        connected_anew,
        {"event": "lost"},
    ]


def test_drops_are_told_once_in_a_while_for_each_client(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(drop_log, "EVERY_S", 0.2)

    async def scenario() -> None:
        async with serving(queue_bytes=2_000) as broker:
            async with connected(broker.address, "a") as one, connected(broker.address, "b") as two:
                for client in (one, two):
                    await client.subscribe("t")
                for _ in range(50):
                    broker.publish("t", bytes(1_000))
                for client in (one, two):
                    await client.expect(Publish)
                async with asyncio.timeout(PATIENCE_S):
                    await until(lambda: len(events(caplog, "dropped")) >= 2)
                broker.publish("t", bytes(1_000))
                assert len((await one.expect(Publish)).payload) == 1_000
            assert broker.snapshot()["totals"]["dropped"] == 98

    asyncio.run(scenario())
    assert events(caplog, "dropped") == [{"event": "dropped", "client": name, "messages": 49} for name in "ab"]


def test_the_program_writes_json_where_that_is_asked_for() -> None:
    with program("--port", "0", "--websocket-port", "0", "--metrics-port", "0", "--log", "json") as process:
        assert process.stderr is not None
        ready = json.loads(process.stderr.readline())
        assert (ready["event"], ready["host"]) == ("ready", "127.0.0.1")
        assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/mqtt", ready["websocket"])
        with socket.create_connection(("127.0.0.1", ready["port"]), PATIENCE_S) as client:
            client.sendall(encode(Connect("c", V5), V5) + encode(Disconnect(), V5))
            assert client.recv(100)
        lines = [json.loads(process.stderr.readline()) for _ in range(2)]
        process.terminate()
        _, rest = process.communicate(timeout=PATIENCE_S)
    assert json.loads(rest)["event"] == "summary"
    assert [(line["event"], line["client"]) for line in lines] == [("connected", "c"), ("disconnected", "c")]


def test_ready_tells_where_http_is_served() -> None:
    with program("--events", "--port", "0", "--set", "metrics_port=0") as process:
        ready = event(process)
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", ready["metrics"])
    assert "websocket" not in ready

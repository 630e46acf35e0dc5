"""What one SUBSCRIBE asks for, and that it costs no more than its distinct filters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.counters import Totals
from broker.packets import V5, Pingreq, Pingresp, Publish, Request, Suback, Subscribe
from broker.reasons import Reason
from broker.router import Router
from broker.session import Session
from broker.subscription import Subscription
from broker.wanted import FILTER_BYTES, LONGEST_FILTER, Wanted
from tests.broker.raw import connected, publish
from tests.broker.serving import VERSIONS, serving
from tests.broker.siege import besieged

QUOTA, INVALID = Reason.QUOTA_EXCEEDED, Reason.TOPIC_FILTER_INVALID
REQUESTS = st.builds(
    Request, st.sampled_from(["a", "b", "#", "$share/g/a", "a#"]), st.integers(0, 2), retain_handling=st.integers(0, 2)
)


def session_with(*filters: str) -> Session:
    session = Session("c", Totals())
    for topic_filter in filters:
        session.subscribe(Subscription(session, topic_filter, 0, False, False, 0))
    return session


def asked(session: Session, requests: Sequence[Request], most: int = 10) -> Wanted:
    wanted = Wanted(session, most)
    for request in requests:
        wanted.add(request)
    return wanted


@settings(max_examples=200, deadline=None)
@given(st.lists(REQUESTS, max_size=8), st.sets(st.sampled_from(["a", "b"])))
def test_a_packet_of_many_requests_is_as_good_as_many_packets_of_one(requests: list[Request], known: set[str]) -> None:
    together = asked(session_with(*known), requests, most=3)
    session, answers, replayed = session_with(*known), [], set()
    for request in requests:
        single = asked(session, [request], most=3)
        answers += single.answers
        replayed |= set(single.replayed)
        for topic_filter, granted in single.granted.items():
            session.subscribe(Subscription(session, topic_filter, granted.qos, False, False, 0))
    assert together.answers == answers
    assert set(together.replayed) == replayed
    granted_qos = {name: request.qos for name, request in together.granted.items()}
    assert granted_qos == {name: session.subscriptions[name].qos for name in granted_qos}
    assert {*granted_qos, *known} == set(session.subscriptions)


def test_the_bytes_of_a_clients_filters_are_bounded() -> None:
    most = 1000
    long = [Request(f"{number:03}" + "x" * 64_997) for number in range(5)]
    session = session_with(*(request.topic_filter for request in long[:3]))
    assert session.filter_bytes == 195_000
    assert asked(session, long, most).answers == [0, 0, 0, QUOTA, QUOTA]
    session.unsubscribe(long[0].topic_filter)
    assert asked(session, long[3:], most).answers == [0, QUOTA]
    assert asked(session, [Request("é" * (FILTER_BYTES * most - 130_000))], most).answers == [QUOTA]


def test_the_longest_filter_fits_however_few_are_allowed() -> None:
    assert asked(session_with(), [Request("x" * LONGEST_FILTER)], most=1).answers == [0]


@pytest.mark.slow
@VERSIONS
def test_a_filter_that_is_repeated_50000_times_is_one_subscription(version: int) -> None:
    count = 50_000

    async def scenario() -> None:
        async with (
            besieged(128 << 20, hears="calm") as broker,
            connected(broker.address, "attacker", version) as attacker,
        ):
            await attacker.send(publish("t", b"kept", retain=True))
            with mock.patch.object(Router, "subscribe", autospec=True, side_effect=Router.subscribe) as subscribe:
                await attacker.send(Subscribe(1, (Request("#"),) * count + (Request("#", 1), Request("a#"))))
                refused = INVALID if version == V5 else 0x80
                assert (await attacker.expect(Suback)).reasons == (0,) * count + (1, refused)
            assert subscribe.call_count == 1
            assert (await attacker.expect(Publish)).payload == b"kept"
            await attacker.send(Pingreq())
            assert await attacker.receive() == Pingresp()
            assert broker.snapshot()["totals"]["rejected"] == {"topic_filter_invalid": 1}

    asyncio.run(scenario())


@VERSIONS
def test_refused_requests_are_counted_and_told_with_client_and_peer(
    version: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def scenario() -> tuple[str, int]:
        async with (
            serving(max_subscriptions=1, retained_bytes=600) as broker,
            connected(broker.address, "c", version) as client,
        ):
            for _ in range(2):
                await client.send(Subscribe(1, (Request("a"), Request("b"), Request("a#"))))
                await client.expect(Suback)
                await client.send(publish("kept", bytes(900), retain=True), Pingreq())
                assert await client.receive() == Pingresp()
            totals = broker.snapshot()["totals"]
            assert totals["rejected"] == {"quota_exceeded": 4, "topic_filter_invalid": 2}
            assert 'splitcom_broker_rejected_total{reason="quota_exceeded"} 4' in broker.metrics()
            host, port = client.writer.get_extra_info("sockname")
            return host, port

    host, port = asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("rejected")]
    assert lines == [
        f"rejected: reason=quota_exceeded client=c peer={host}:{port} topic=b code=0x97",
        f"rejected: reason=topic_filter_invalid client=c peer={host}:{port} topic=a# code=0x8F",
        f"rejected: reason=quota_exceeded client=c peer={host}:{port} topic=kept code=0x97",
    ]


def test_a_connection_tells_of_32_topics_at_most(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with serving(max_subscriptions=1) as broker, connected(broker.address, "c") as client:
            await client.send(Subscribe(1, tuple(Request(f"t/{number}") for number in range(101))))
            assert (await client.expect(Suback)).reasons == (0,) + (QUOTA,) * 100
            assert broker.snapshot()["totals"]["rejected"] == {"quota_exceeded": 100}

    asyncio.run(scenario())
    assert sum(record.getMessage().startswith("rejected") for record in caplog.records) == 32

"""The authority: who is let in, slowly or at once, and what a client may publish, subscribe to and receive."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from broker.authority import Grants, Peer
from broker.errors import ProtocolError
from broker.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Pubrec,
    Subscribe,
    Will,
)
from broker.packets import Request as Filter
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import connected, open_client, publish
from tests.broker.serving import FOREVER, VERSIONS, kept, reasons, serving


@dataclass
class Only:
    """Grants for the topics that begin with a prefix."""

    prefix: str
    checks_deliveries: bool = False

    def may_publish(self, topic: str) -> bool:
        return topic.startswith(self.prefix)

    may_subscribe = may_receive = may_publish


@dataclass
class Asked:
    """An authority that answers as its function does, and notes the questions."""

    answer: Callable[[Connect], Grants | Awaitable[Grants]]
    peers: list[Peer] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def admit(self, connect: Connect, peer: Peer) -> Grants | Awaitable[Grants]:
        self.peers.append(peer)
        self.names.append(connect.client_id)
        return self.answer(connect)


class Slow:
    """An authority that decides when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.decision: asyncio.Future[Grants] = asyncio.get_running_loop().create_future()

    def admit(self, connect: Connect, peer: Peer) -> Awaitable[Grants]:
        self.asked.set()
        return self.decision


async def later(grants: Grants) -> Grants:
    await asyncio.sleep(0)
    return grants


@VERSIONS
@pytest.mark.parametrize("slow", [False, True])
def test_what_is_not_allowed_is_refused_and_counted(version: int, slow: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    authority = Asked(lambda connect: later(Only("mine/")) if slow else Only("mine/"))

    async def scenario() -> None:
        async with serving(authority) as broker, connected(broker.address, "c", version) as both:
            no = Reason.NOT_AUTHORIZED if version == V5 else 0
            await both.send(publish("theirs", qos=1), publish("theirs"), publish("theirs", qos=2))
            once, twice = await both.expect(Puback), await both.expect(Pubrec)
            assert (once.reason, twice.reason) == (no, no)
            if version == V5:
                assert once.properties[Property.REASON_STRING] == "not allowed to publish to 'theirs'"
            filters = ("theirs", "mine/#", "$share/g/theirs", "$share/g/mine/x")
            await both.send(Subscribe(1, tuple(map(Filter, filters))))
            suback = await both.receive()
            refused = Reason.NOT_AUTHORIZED if version == V5 else 0x80
            assert getattr(suback, "reasons", None) == (refused, 0, refused, 0)
            await both.send(publish("theirs"), publish("mine/x", b"yes"))
            assert [(await both.expect(Publish)).payload for _ in range(2)] == [b"yes", b"yes"]
            assert broker.snapshot()["totals"]["forbidden"] == 6

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records if "forbidden" in record.getMessage()]
    assert [re.sub(r":\d+", "", line) for line in sorted(lines, key=len)] == [
        "forbidden: client=c peer=127.0.0.1 topic=theirs",
        "forbidden: client=c peer=127.0.0.1 topic=$share/g/theirs",
    ]


def test_topics_of_the_broker_itself_are_closed_to_clients() -> None:
    async def scenario() -> None:
        async with serving(sys_interval_s=0) as broker, connected(broker.address, "c") as both:
            await both.subscribe("$SYS/#")
            for topic in ("$SYS/a", "$SYS"):
                await both.send(publish(topic, b"forged", qos=1))
                assert (await both.expect(Puback)).reason == Reason.NOT_AUTHORIZED
            await both.send(publish("$SYSTEM", b"fine", qos=1))
            assert (await both.expect(Puback)).reason == Reason.NO_MATCHING_SUBSCRIBERS
            broker.publish("$SYS/a", b"genuine", retain=True)
            assert await both.receive() == publish("$SYS/a", b"genuine")
            await both.subscribe("$SYS/+")
            assert await both.receive() == publish("$SYS/a", b"genuine", retain=True)

    asyncio.run(scenario())


@VERSIONS
@pytest.mark.parametrize("topic", ["theirs", "$SYS/x"])
def test_a_will_that_is_not_allowed_is_refused_at_once(version: int, topic: str) -> None:
    async def scenario() -> None:
        async with serving(Asked(lambda connect: Only("mine/"))) as broker:
            async with open_client(broker.address, version) as stranger:
                await stranger.send(Connect("c", version, will=Will(topic)))
                expected = Reason.NOT_AUTHORIZED if version == V5 else 5
                assert reasons(await stranger.ended()) == [expected]
            assert broker.snapshot()["sessions"] == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("reason", "code"), [(Reason.BAD_USER_NAME_OR_PASSWORD, 4), (Reason.NOT_AUTHORIZED, 5), (Reason.SERVER_BUSY, 3)]
)
def test_a_client_that_is_not_admitted_is_told_why_and_logged_once(
    slow: bool, reason: Reason, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def refuse() -> Grants:
        raise ProtocolError("not today", reason)

    async def refuse_later() -> Grants:
        return refuse()

    async def scenario() -> None:
        async with serving(Asked(lambda connect: refuse_later() if slow else refuse())) as broker:
            for version, expected in ((V5, int(reason)), (V311, code)):
                async with open_client(broker.address, version) as stranger:
                    await stranger.send(Connect("who", version))
                    (connack,) = await stranger.ended()
                    assert isinstance(connack, Connack)
                    assert connack.reason == expected
                    text = {Property.REASON_STRING: "not today"} if version == V5 else {}
                    assert connack.properties == text
            totals = broker.snapshot()["totals"]
            assert (totals["refused"], totals["ended"]) == (2, {reason.label: 2})

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records if "not today" in record.getMessage()]
    assert len(lines) == 2
    assert all("127.0.0.1:" in line and "client=who" in line for line in lines)


def test_an_authority_that_fails_refuses_the_client_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> Grants:
        raise OSError("disk on fire")

    async def scenario() -> None:
        answers: list[Grants | Awaitable[Grants]] = [Only(""), broken(), Only("")]
        async with serving(Asked(lambda connect: answers.pop(0))) as broker, connected(broker.address, "a"):
            async with open_client(broker.address) as unlucky:
                await unlucky.send(Connect("b"))
                (connack,) = await unlucky.ended()
                assert reasons([connack]) == [Reason.SERVER_UNAVAILABLE]
                assert "fire" not in str(connack)
            async with connected(broker.address, "c"):
                pass

    asyncio.run(scenario())
    assert "disk on fire" in caplog.text


def test_packets_sent_before_a_slow_decision_are_handled_after_it_in_order() -> None:
    async def scenario() -> None:
        authority = Slow()
        async with serving(authority) as broker, open_client(broker.address) as eager:
            # More than the broker reads at once, and a large packet at the end.
            sent = [publish("t", bytes([number]) * 3_000, qos=1, packet_id=number + 1) for number in range(20)]
            await eager.send(Connect("c"), Subscribe(99, (Filter("t"),)), *sent, publish("t", bytes(300_000)))
            async with asyncio.timeout(5):
                await authority.asked.wait()
            assert broker.snapshot()["sessions"] == 0
            authority.decision.set_result(Only(""))
            await eager.expect(Connack)
            packets = [await eager.receive() for _ in range(42)]
            payloads = [packet.payload for packet in packets if isinstance(packet, Publish)]
            assert [len(payload) for payload in payloads] == [3_000] * 20 + [300_000]
            assert [payload[0] for payload in payloads[:20]] == list(range(20))

    asyncio.run(scenario())


def test_a_decision_that_takes_too_long_ends_the_connection() -> None:
    async def scenario() -> None:
        authority = Slow()
        async with serving(authority, connect_timeout_s=0.05) as broker, open_client(broker.address) as patient:
            await patient.send(Connect("c"))
            (connack,) = await patient.ended()
            assert reasons([connack]) == [Reason.SERVER_UNAVAILABLE]
            assert authority.decision.cancelled()
            assert broker.snapshot()["totals"]["ended"] == {"connect_timeout": 1}
            assert broker.snapshot()["sessions"] == 0

    asyncio.run(scenario())


def test_a_broker_that_closes_gives_up_its_decisions() -> None:
    async def scenario() -> None:
        authority = Slow()
        async with serving(authority) as broker:
            reader, writer = await asyncio.open_connection(*broker.address)
            writer.write(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c")
            await authority.asked.wait()
            reading = asyncio.create_task(reader.read())
        assert await reading == b"\x20\x02\x00\x03"
        writer.close()
        assert authority.decision.cancelled()
        assert broker.snapshot()["open_connections"] == 0

    asyncio.run(scenario())


def test_a_client_id_is_taken_over_only_by_a_client_that_is_admitted() -> None:
    def admit(connect: Connect) -> Grants:
        if connect.username != "owner":
            raise ProtocolError("unknown user", Reason.NOT_AUTHORIZED)
        return Only("")

    async def scenario() -> None:
        async with serving(Asked(admit)) as broker, connected(broker.address, "c", username="owner") as owner:
            async with open_client(broker.address) as thief:
                await thief.send(Connect("c", username="thief"))
                assert reasons(await thief.ended()) == [Reason.NOT_AUTHORIZED]
            await owner.send(Pingreq())
            assert await owner.receive() == Pingresp()

    asyncio.run(scenario())


def test_an_authority_hears_of_the_peer_and_of_a_name_for_everyone() -> None:
    authority = Asked(lambda connect: Only(""))

    async def scenario() -> None:
        async with serving(authority) as broker, connected(broker.address, "") as nameless:
            assert authority.names == [nameless.connack.properties[Property.ASSIGNED_CLIENT_ID]]  # type: ignore[attr-defined]
            assert authority.peers == [Peer("127.0.0.1", None)]

    asyncio.run(scenario())


def test_deliveries_are_checked_where_the_grants_ask_for_it() -> None:
    class Reader(Only):
        def may_subscribe(self, topic_filter: str) -> bool:
            return True

    authority = Asked(lambda connect: Reader("a/", checks_deliveries=True) if connect.client_id == "r" else Only(""))

    async def scenario() -> None:
        async with (
            serving(authority) as broker,
            connected(broker.address, "p") as publisher,
            connected(broker.address, "r") as reader,
            connected(broker.address, "s") as other,
        ):
            await publisher.send(publish("b/kept", retain=True))
            await reader.subscribe("#")
            for member in (reader, other):
                await member.subscribe("$share/g/b/+")
            await publisher.send(publish("b/1"), publish("b/2"), publish("a/1"))
            assert (await reader.expect(Publish)).topic == "a/1"
            assert [(await other.expect(Publish)).topic for _ in range(2)] == ["b/1", "b/2"]

    asyncio.run(scenario())


def test_a_resumed_session_is_confined_to_what_its_client_may_do_now() -> None:
    grants = [Only(""), Only(""), Only("mine/")]
    authority = Asked(lambda connect: grants.pop(0))

    async def scenario() -> None:
        async with serving(authority) as broker, connected(broker.address, "p") as publisher:
            async with connected(broker.address, "c", **kept(V5)) as before:
                await before.subscribe("mine/t", 1)
                await before.subscribe("theirs", 1)
                before.abort()
            await publisher.send(publish("theirs", b"secret", qos=1), publish("mine/t", b"own", qos=1))
            for _ in range(2):
                await publisher.expect(Puback)
            async with connected(broker.address, "c", clean_start=False, properties=FOREVER) as after:
                assert after.connack.session_present  # type: ignore[attr-defined]
                assert (await after.expect(Publish)).payload == b"own"
                await publisher.send(publish("theirs", b"secret", qos=1))
                assert (await publisher.expect(Puback)).reason == Reason.NO_MATCHING_SUBSCRIBERS

    asyncio.run(scenario())

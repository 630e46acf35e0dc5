"""Sessions: taken over, kept, resumed, expired."""

from __future__ import annotations

import asyncio

from broker.packets import (
    V5,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Will,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import connected, publish
from tests.broker.serving import FOREVER, VERSIONS, kept, reasons, serving


@VERSIONS
def test_a_new_connection_takes_the_client_id_over(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills")
            will = Will("wills", b"taken over")
            async with (
                connected(broker.address, "c", version, will=will) as old,
                connected(broker.address, "c", version) as new,
            ):
                expected = [Reason.SESSION_TAKEN_OVER] if version == V5 else []
                assert reasons(await old.ended()) == expected
                assert (await watch.expect(Publish)).payload == b"taken over"
                await new.send(Pingreq())
                assert await new.receive() == Pingresp()
            assert broker.counters["c"].connections == 2

    asyncio.run(scenario())


@VERSIONS
def test_qos_1_waits_for_a_client_that_is_away(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker:
            async with connected(broker.address, "c", version, **kept(version)) as away:
                assert not away.connack.session_present
                await away.subscribe("t", 1)
                await away.send(Disconnect())
                assert await away.ended() == []
            async with connected(broker.address, "p") as publisher:
                for number in range(3):
                    await publisher.send(publish("t", bytes([number]) * 50_000, qos=1))
                    assert (await publisher.expect(Puback)).reason == 0
                await publisher.send(publish("t", b"qos 0"))
            async with connected(broker.address, "c", version, **kept(version)) as back:
                assert back.connack.session_present
                received = [await back.expect(Publish) for _ in range(3)]
                assert [bytes(p.payload[:1]) for p in received] == [b"\0", b"\1", b"\2"]
                assert not any(p.dup for p in received)
            async with connected(broker.address, "c", version) as clean:
                assert not clean.connack.session_present
                await clean.send(Pingreq())
                assert await clean.receive() == Pingresp()

    asyncio.run(scenario())


@VERSIONS
def test_what_was_not_acknowledged_comes_again_with_dup(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker:
            async with connected(broker.address, "c", version, **kept(version)) as both:
                await both.subscribe("t", 1)
                await both.send(publish("t", b"1", qos=1), publish("t", b"2", qos=1, packet_id=2))
                packets = [await both.receive() for _ in range(4)]
                first, second = [packet for packet in packets if isinstance(packet, Publish)]
                await both.send(Puback(first.packet_id), Pingreq())
                assert await both.receive() == Pingresp()
                both.abort()
            async with connected(broker.address, "c", version, **kept(version)) as back:
                again = await back.expect(Publish)
                assert (again.payload, again.packet_id, again.dup) == (b"2", second.packet_id, True)
                await back.send(Puback(again.packet_id), Pingreq())
                assert await back.receive() == Pingresp()

    asyncio.run(scenario())


def test_the_session_expiry_can_be_changed_on_leaving_but_not_invented() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            async with connected(broker.address, "c", properties=FOREVER) as kept:
                await kept.send(Disconnect(0, {Property.SESSION_EXPIRY: 0}))
                assert await kept.ended() == []
            async with connected(broker.address, "c", clean_start=False) as fresh:
                assert not fresh.connack.session_present
                await fresh.send(Disconnect(0, FOREVER))
                assert reasons(await fresh.ended()) == [Reason.PROTOCOL_ERROR]

    asyncio.run(scenario())

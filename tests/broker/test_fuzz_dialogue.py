"""Packets in any order, each well-formed or damaged: the broker answers or ends that connection, and never stumbles."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.packet_encoder import encode
from broker.packets import V5, VERSIONS, Connect, Disconnect, Pingreq, Pingresp, Puback
from tests.broker.raw import RawClient, connected
from tests.broker.siege import besieged, packet
from tests.broker.test_packets import PACKETS


def streams(version: int) -> st.SearchStrategy[bytes]:
    """One packet, whether a client may send it or not, or one of any first byte and body."""
    packets = PACKETS[version].filter(lambda sent: not isinstance(sent, Connect | Disconnect))
    well_formed = packets.map(lambda sent: encode(sent, version))
    return well_formed | st.builds(packet, st.integers(0, 255), st.binary(max_size=20))


async def converse(client: RawClient, stream: bytes) -> None:
    """Send it all and read until the broker has handled it, or has ended the connection."""
    await client.send_bytes(stream + encode(Pingreq(), client.version))
    with contextlib.suppress(ConnectionResetError):
        while (answer := await client.receive()) is not None and answer != Pingresp():
            pass


async def stumbles(version: int, parts: list[bytes], clean_start: bool = True) -> list[dict[str, Any]]:
    """What goes wrong in the broker's loop when a client sends these parts, a connection for each and one for all."""
    wrong: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    async with besieged(hears="calm") as broker:
        for part in [b"".join(parts), *parts]:
            async with connected(broker.address, "attacker", version, clean_start=clean_start) as attacker:
                await converse(attacker, part)
    return wrong


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_packets_in_any_order_are_answered_or_end_the_connection(version: int, data: st.DataObject) -> None:
    parts = data.draw(st.lists(streams(version), max_size=8))
    assert asyncio.run(stumbles(version, parts, data.draw(st.booleans()))) == []


def test_an_error_in_the_broker_would_be_seen() -> None:
    with mock.patch("broker.session.Session.acknowledge", side_effect=KeyError):
        assert asyncio.run(stumbles(V5, [encode(Puback(1), V5)])) != []

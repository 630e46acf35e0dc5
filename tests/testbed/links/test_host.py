"""Devices shaped from the host, with namespaces in the place of devices: rates, changes, what is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from testbed.links.profile import WAYS, parse
from testbed.links.traces import Way
from testbed.links.trees import ifb_name
from tests.testbed.links.lan import ADDRESS, INTERFACE, Lan, address
from tests.testbed.links.shaped import IFB, make, record, send

pytestmark = pytest.mark.usefixtures("own_records")

TOLERANCE, SECONDS, UNSHAPED_BPS, UNSHAPED_BYTES = 0.05, 2.0, 100e6, 10e6


async def errors(lan: Lan, way: Way, profiles: Mapping[int, str]) -> dict[int, float]:
    """How far transfers to or from all devices at once are off, as shares."""
    wanted = {number: parse(text).rate(way).mean_bps for number, text in profiles.items()}
    found = await lan.rates(way, {number: bps / 8 * SECONDS for number, bps in wanted.items()})
    return {number: abs(found[number] / bps - 1) for number, bps in wanted.items()}


@pytest.mark.slow
def test_both_ways_of_every_device_have_their_rates_at_once() -> None:
    profiles = {0: "up=4mbit down=10mbit", 1: "up=2mbit down=20mbit"}
    with Lan(devices=2) as lan:
        make(lan, profiles)
        for way in WAYS:
            off = asyncio.run(errors(lan, way, profiles))
            if max(off.values()) > TOLERANCE:
                off = asyncio.run(errors(lan, way, profiles))
            assert max(off.values()) <= TOLERANCE, (way, off)


def test_a_device_that_is_not_shaped_passes_freely() -> None:
    with Lan(devices=2) as lan:
        make(lan, {0: "up=1mbit down=1mbit"})

        async def measure() -> list[float]:
            return [(await lan.rates(way, {1: UNSHAPED_BYTES}))[1] for way in WAYS]

        assert min(asyncio.run(measure())) > UNSHAPED_BPS


@pytest.mark.parametrize("way", WAYS)
def test_a_live_change_keeps_what_waits(lan: Lan, way: Way) -> None:
    host = make(lan, {0: "up=200kbit down=200kbit queue=100kb"})
    sender, to = (lan.device(0), ADDRESS) if way == "up" else (lan.host, address(0))

    async def change() -> tuple[int, int, int]:
        send(sender, to, 40)
        before = (await host.show())[address(0)]["counters"][way]
        await host.set(address(0), parse("up=250kbit down=250kbit queue=100kb"))
        after = (await host.show())[address(0)]["counters"][way]
        return before["waiting_bytes"], after["waiting_bytes"], after["dropped"]

    before, after, dropped = asyncio.run(change())
    assert before > 10_000
    assert after > before / 2
    assert dropped == 0
    assert "rate 250Kbit" in lan.tc(f"class show dev {INTERFACE} classid 1:10")


def test_what_is_shown_are_profiles_and_what_passed(lan: Lan) -> None:
    host = make(lan, {0: "up=4mbit down=10mbit"})
    send(lan.device(0), ADDRESS, 2)  # each is answered: port unreachable
    deadline = time.monotonic() + 5
    while (shown := asyncio.run(host.show()))[address(0)]["counters"]["down"].get("packets") != 2:
        assert time.monotonic() < deadline, shown
    assert list(shown) == [address(0)]
    assert shown[address(0)]["profile"] == "up=4mbit down=10mbit"
    for way in WAYS:
        counts = shown[address(0)]["counters"][way]
        assert counts["packets"] == 2
        assert counts["bytes"] == 2 * (1042 if way == "up" else 590)
        assert (counts["dropped"], counts["waiting_bytes"]) == (0, 0)
    facts = host.facts()
    assert facts["rx_gro"] in (True, False)
    assert facts["gso_max_segs_before"] > 1
    assert facts["kernel_links"][address(0)]["up"]["rate_bps"] == 4e6


def test_numbers_of_cleared_devices_are_used_again(lan: Lan) -> None:
    host = make(lan, dict.fromkeys(range(3), "up=1mbit down=1mbit"))

    async def exchange() -> None:
        await host.clear(address(1))
        await host.set(address(7), parse("up=3mbit down=3mbit"))

    asyncio.run(exchange())
    assert [link["minor"] for link in record().links.values()] == [0x10, 0x12, 0x11]
    for device in (INTERFACE, IFB):
        assert lan.tc(f"class show dev {device}").count("class htb") == 4
        assert lan.tc(f"filter show dev {device}").count("match 0a5b00") == 3
    assert "match 0a5b0011/ffffffff at 16" in lan.tc(f"filter show dev {INTERFACE}")
    assert "match 0a5b0011/ffffffff at 12" in lan.tc(f"filter show dev {IFB}")


def test_the_ifb_bears_the_name_of_its_interface() -> None:
    assert ifb_name("eth0") == "sc-eth0"
    names = ["enp0s31f6", "twelve-chars", "thirteen-char", "fourteen-chars", "enx001122334455", "enx001122334466"]
    assert len({ifb_name(name) for name in names}) == len(names)
    assert all(len(ifb_name(name)) <= 15 for name in names)

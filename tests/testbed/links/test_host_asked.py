"""What is asked of the host: in one go with other commands, only planned, or refused in a line."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from testbed.links import kernel, registry
from testbed.links.errors import LinkError
from testbed.links.holders import check_standing
from testbed.links.host import Host
from testbed.links.profile import UNSHAPED, LinkProfile, parse
from tests.testbed.links.lan import ADDRESS, INTERFACE, Lan, address
from tests.testbed.links.shaped import IFB, make, record

pytestmark = pytest.mark.usefixtures("own_records")


def test_the_commands_of_a_dry_run_do_the_same() -> None:
    texts = {0: "up=1mbit down=10mbit", 1: "up=100kbit down=50mbit queue=64kb", 2: "unlimited"}

    async def by_hand(host: Host) -> None:
        for number, text in texts.items():
            profile = parse(text)
            for operation in await host.plan(address(number), profile):
                await kernel.command(operation.text)
            links = {address(number): {"address": address(number), "minor": 0x10 + number, "profile": profile.table()}}
            there = registry.find(f"@{INTERFACE}")
            before = there.before if there else {"queueing": {}, "gso_max_segs": 1}
            links = there.links | links if there else links
            registry.Owner(f"@{INTERFACE}", "host", 0, interface=INTERFACE, before=before, links=links).write()

    with Lan() as lan:
        make(lan, texts)
        expected = lan.shown(INTERFACE, IFB)
        record().forget()
    with Lan() as lan:
        asyncio.run(by_hand(Host(INTERFACE, lan.host)))
        assert lan.shown(INTERFACE, IFB) == expected


def test_a_dry_run_does_nothing(lan: Lan) -> None:
    before = lan.shown()
    planned = asyncio.run(Host(INTERFACE, lan.host).plan(address(0), parse("up=1mbit")))
    assert planned[0].text == f"ip -n {lan.host} link set eth0 gso_max_segs 1"
    assert lan.shown() == before
    assert registry.owners() == []


def test_commands_at_the_same_time_wait_for_one_another(lan: Lan) -> None:
    host, profile = Host(INTERFACE, lan.host), parse("up=1mbit")

    async def all_at_once() -> None:
        await asyncio.gather(*(host.set(address(number), profile) for number in range(4)))

    asyncio.run(all_at_once())
    assert len(record().links) == 4
    assert len({link["minor"] for link in record().links.values()}) == 4


@pytest.mark.parametrize(
    ("interface", "device", "message"),
    [
        ("eth9", "10.91.0.10", "interface 'eth9' does not exist; valid: eth0"),
        ("lo", "10.91.0.10", "lo is loopback; valid: eth0"),
        ("eth0", "fe80::1", "'fe80::1' is no IPv4 address of a device; valid: such as"),
        ("eth0", "phone", "'phone' is no IPv4 address of a device; valid: such as"),
        ("eth0", "224.0.0.1", "'224.0.0.1' is no IPv4 address of a device; valid: such as"),
        ("eth0", ADDRESS, f"{ADDRESS} is this machine's own address; valid: a device's behind eth0"),
    ],
)
def test_what_cannot_be_shaped_is_told_in_a_line(lan: Lan, interface: str, device: str, message: str) -> None:
    for attempt in (Host(interface, lan.host).set, Host(interface, lan.host).plan):
        with pytest.raises(LinkError) as raised:
            asyncio.run(attempt(device, parse("up=1mbit")))
        assert str(raised.value).startswith(message)
        assert "\n" not in str(raised.value)
    assert registry.owners() == []


def test_a_device_that_is_not_shaped_cannot_be_cleared(lan: Lan) -> None:
    host = make(lan, {0: "up=1mbit"})
    with pytest.raises(LinkError, match=rf"eth0/10\.91\.0\.99 is not shaped; valid: {address(0)}"):
        asyncio.run(host.clear("10.91.0.99"))


def test_what_the_kernel_lacks_is_told_before_anything(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.links.host.why_not", lambda *_: "links.backend: host needs ifb")
    with pytest.raises(LinkError, match="host needs ifb"):
        asyncio.run(Host(INTERFACE, lan.host).set(address(0), UNSHAPED))
    assert registry.owners() == []


def test_a_rate_that_varies_cannot_stand() -> None:
    with pytest.raises(LinkError, match=r"down: the rate 5mbit\+1mbit@3s varies.*valid: --hold"):
        check_standing(parse("down=5mbit+1mbit@3s"))
    check_standing(LinkProfile(up=dataclasses.replace(UNSHAPED.up, rate="5mbit")))
    with pytest.raises(LinkError, match="varies"):
        asyncio.run(Host("eth0").set("10.0.0.1", parse("up=5mbit+1mbit@3s")))


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "sixteen-letters-"])
def test_a_name_that_no_interface_has_is_refused(name: str) -> None:
    with pytest.raises(LinkError, match="is no name of an interface; valid: such as eth0"):
        Host(name)

"""Devices shaped from the host, with namespaces in the place of devices, and the host's interface left as it was."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from testbed.links import kernel, namespaces, operations, registry
from testbed.links.errors import LinkError
from testbed.links.host import Host, check_standing
from testbed.links.kernel import Kernel
from testbed.links.profile import UNSHAPED, WAYS, LinkProfile, parse
from testbed.links.traces import Way
from testbed.links.trees import ifb_name
from tests.testbed.links.lan import ADDRESS, INTERFACE, Lan, address, shell

TOLERANCE, SECONDS, UNSHAPED_BPS, UNSHAPED_BYTES = 0.05, 2.0, 100e6, 10e6
IFB = ifb_name(INTERFACE)
FOREIGN = {
    "default": [],
    "tbf": ["qdisc add dev eth0 root tbf rate 50mbit burst 15k limit 100k"],
    "htb": [
        "qdisc add dev eth0 root handle 1: htb default 0x20",
        "class add dev eth0 parent 1: classid 1:20 htb rate 10mbit ceil 20mbit",
        "filter add dev eth0 parent 1: protocol ip prio 5 u32 match ip dst 10.9.9.9/32 flowid 1:20",
    ],
    "ingress": [
        "qdisc add dev eth0 clsact",
        "filter add dev eth0 ingress protocol ip prio 3 u32 match ip src 10.9.9.9/32 flowid 1:1",
        "filter add dev eth0 egress protocol ip prio 4 u32 match ip dst 10.9.9.9/32 flowid 1:1",
    ],
}


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "folder", lambda: tmp_path)


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as made:
        yield made


def make(lan: Lan, profiles: Mapping[int, str]) -> Host:
    host = Host(INTERFACE, lan.host)

    async def shape() -> None:
        for number, text in profiles.items():
            await host.set(address(number), parse(text))

    asyncio.run(shape())
    return host


def send(namespace: str, to: str, count: int) -> None:
    """Datagrams of 1042 bytes of layer 2, all at once, to a port that nobody listens at."""
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    code += f"for _ in range({count}): s.sendto(bytes(1000), ('{to}', 9))"
    subprocess.run([*namespaces.prefix(namespace), sys.executable, "-c", code], check=True)


def record() -> registry.Owner:
    found = registry.find(f"@{INTERFACE}")
    assert found is not None
    return found


async def errors(lan: Lan, way: Way, profiles: Mapping[int, str]) -> dict[int, float]:
    """How far transfers to or from all devices at once are off, as shares."""
    wanted = {number: parse(text).rate(way).mean_bps for number, text in profiles.items()}
    async with lan.ends() as ends:
        found = await ends.rates(way, {number: bps / 8 * SECONDS for number, bps in wanted.items()})
    return {number: abs(found[number] / bps - 1) for number, bps in wanted.items()}


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
            async with lan.ends() as ends:
                return [(await ends.rates(way, {1: UNSHAPED_BYTES}))[1] for way in WAYS]

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


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("by", ["clear", "remove"])
def test_the_interface_is_as_it_was_before(lan: Lan, kind: str, by: str) -> None:
    for command in FOREIGN[kind]:
        lan.tc(command)
    before, host = lan.shown(), Host(INTERFACE, lan.host)

    async def there_and_back() -> list[str]:
        assert await host.set(address(0), parse("up=1mbit down=1mbit"), force=bool(FOREIGN[kind])) == []
        assert lan.shown() != before
        return await (host.clear(address(0)) if by == "clear" else host.remove())

    assert asyncio.run(there_and_back()) == []
    assert lan.shown() == before
    assert IFB not in lan.links()
    assert registry.owners() == []
    assert asyncio.run(host.remove()) == []


@pytest.mark.parametrize("kind", ["tbf", "htb", "ingress"])
def test_what_somebody_else_set_up_is_not_replaced_unasked(lan: Lan, kind: str) -> None:
    for command in FOREIGN[kind]:
        lan.tc(command)
    before, host = lan.shown(), Host(INTERFACE, lan.host)
    for attempt in (host.set, host.plan):
        with pytest.raises(LinkError, match=rf"eth0 has qdisc {'clsact' if kind == 'ingress' else kind} .*--force"):
            asyncio.run(attempt(address(0), parse("up=1mbit")))
    assert lan.shown() == before
    assert registry.owners() == []


def test_an_ifb_of_ours_that_no_record_knows_is_not_replaced_unasked(lan: Lan) -> None:
    shell(f"ip -n {lan.host} link add {IFB} type ifb")
    host = Host(INTERFACE, lan.host)
    with pytest.raises(LinkError, match=f"{IFB} and no record of it; valid: --force"):
        asyncio.run(host.set(address(0), parse("up=1mbit")))
    asyncio.run(host.set(address(0), parse("up=1mbit"), force=True))
    asyncio.run(host.remove())
    assert IFB not in lan.links()


CRASHES = {
    "whole": [],
    "no ifb": [f"ip -n {{}} link del {IFB}"],
    "no root": ["tc -n {} qdisc del dev eth0 root"],
    "no ingress": ["tc -n {} qdisc del dev eth0 ingress"],
    "nothing": [
        f"ip -n {{}} link del {IFB}",
        "tc -n {} qdisc del dev eth0 root",
        "tc -n {} qdisc del dev eth0 ingress",
    ],
    "no class": ["tc -n {0} filter del dev eth0 parent 1: prio 16", "tc -n {0} class del dev eth0 classid 1:10"],
}


@pytest.mark.parametrize("commands", CRASHES.values(), ids=CRASHES)
@pytest.mark.parametrize("kind", ["default", "htb"])
def test_removal_needs_only_the_record(lan: Lan, commands: list[str], kind: str) -> None:
    for command in FOREIGN[kind]:
        lan.tc(command)
    before = lan.shown()
    asyncio.run(Host(INTERFACE, lan.host).set(address(0), parse("up=1mbit down=1mbit"), force=True))
    for command in commands:
        shell(command.format(lan.host))
    assert asyncio.run(Host(INTERFACE, lan.host).remove()) == []
    assert lan.shown() == before
    assert IFB not in lan.links()
    assert registry.owners() == []


def parts(lan: Lan) -> list[str]:
    """What there is, without what the kernel numbers by when it was made."""
    return sorted(re.sub(r"fh \S+|key ht \S+|index \d+", "", lan.shown(INTERFACE, IFB)).splitlines())


@pytest.mark.parametrize("commands", CRASHES.values(), ids=CRASHES)
def test_setting_a_device_mends_what_is_missing(lan: Lan, commands: list[str]) -> None:
    make(lan, {0: "up=1mbit down=1mbit", 1: "up=2mbit down=2mbit"})
    whole = parts(lan)
    for command in commands:
        shell(command.format(lan.host))
    make(lan, {0: "up=1mbit down=1mbit"})
    assert parts(lan) == whole


@pytest.mark.parametrize("steps", range(0, 17, 2))
def test_a_crash_on_the_way_is_undone(lan: Lan, steps: int) -> None:
    for command in FOREIGN["htb"]:
        lan.tc(command)
    before, host, profile = lan.shown(), Host(INTERFACE, lan.host), parse("up=1mbit down=1mbit")

    async def crash() -> None:
        planned = await host.plan(address(0), profile, force=True)
        await host.set(address(0), profile, force=True)
        told = record()
        await host.remove()
        told.write()
        async with Kernel() as kernel:
            await kernel.run(planned[:steps])

    asyncio.run(crash())
    assert asyncio.run(Host(INTERFACE, lan.host).remove()) == []
    assert lan.shown() == before
    assert IFB not in lan.links()


def test_a_record_of_an_interface_that_is_gone_is_forgotten(lan: Lan) -> None:
    host = make(lan, {0: "up=1mbit"})
    shell(f"ip -n {lan.host} link del {INTERFACE}")
    assert list(asyncio.run(host.show())) == [address(0)]
    assert asyncio.run(host.remove()) == ["eth0 is gone, and its queueing with it"]
    assert IFB not in lan.links()
    assert registry.owners() == []


def test_what_somebody_put_in_our_place_since_is_left_and_told(lan: Lan) -> None:
    host = make(lan, {0: "up=1mbit"})
    lan.tc("qdisc replace dev eth0 root handle 5: tbf rate 50mbit burst 15k limit 100k")
    with pytest.raises(LinkError, match=r"eth0 has qdisc tbf 5: at its root.*`splitcom link clear eth0`"):
        asyncio.run(host.set(address(0), parse("up=2mbit")))
    told = asyncio.run(host.remove())
    assert len(told) == 1
    assert "qdisc tbf 5:" in told[0]
    assert "tbf 5: root" in lan.tc("qdisc show dev eth0")
    assert IFB not in lan.links()


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


def test_the_record_is_there_before_the_interface_is_touched(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[registry.Owner] = []
    run = Kernel.run

    async def spy(self: Kernel, made: list[operations.Operation]) -> None:
        seen.append(record())
        await run(self, made)

    monkeypatch.setattr(Kernel, "run", spy)
    make(lan, {0: "up=1mbit"})
    assert (seen[0].backend, seen[0].pid, seen[0].interface) == ("host", 0, INTERFACE)
    assert list(seen[0].links) == [address(0)]
    assert seen[0].before["gso_max_segs"] > 1


@pytest.mark.parametrize("first", [True, False])
def test_a_device_that_cannot_be_added_leaves_nothing(lan: Lan, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(INTERFACE, lan.host) if first else make(lan, {0: "up=1mbit"})
    before = lan.shown()
    links = [] if first else [address(0)]
    broken = operations.Operation(lan.host, "tc qdisc add dev eth0 root nonsense")
    monkeypatch.setattr(operations, "match_address", lambda *_, **__: broken)
    with pytest.raises(LinkError, match="nonsense"):
        asyncio.run(host.set(address(1), parse("up=2mbit")))
    assert lan.shown() == before
    assert [name for owner in registry.owners() for name in owner.links] == links


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
    with pytest.raises(LinkError, match=r"down: the rate 5mbit\+1mbit@3s varies.*valid: a constant rate"):
        check_standing(parse("down=5mbit+1mbit@3s"))
    check_standing(LinkProfile(up=dataclasses.replace(UNSHAPED.up, rate="5mbit")))
    with pytest.raises(LinkError, match="varies"):
        asyncio.run(Host("eth0").set("10.0.0.1", parse("up=5mbit+1mbit@3s")))


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "sixteen-letters-"])
def test_a_name_that_no_interface_has_is_refused(name: str) -> None:
    with pytest.raises(LinkError, match="is no name of an interface; valid: such as eth0"):
        Host(name)


def test_the_ifb_bears_the_name_of_its_interface() -> None:
    assert ifb_name("eth0") == "sc-eth0"
    names = ["enp0s31f6", "twelve-chars", "thirteen-char", "fourteen-chars", "enx001122334455", "enx001122334466"]
    assert len({ifb_name(name) for name in names}) == len(names)
    assert all(len(ifb_name(name)) <= 15 for name in names)

"""Links that a process holds for a while: rates that vary are played, nobody else changes them, all is given back."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.links import namespaces, registry
from testbed.links.calibration import measure
from testbed.links.check import Check
from testbed.links.driver import READY_S, Ends
from testbed.links.errors import LinkError
from testbed.links.hold import Hold, played
from testbed.links.holders import standing
from testbed.links.host import Host
from testbed.links.profile import UNSHAPED, parse
from tests.testbed.links.lan import ADDRESS, INTERFACE, Lan, address
from tests.testbed.links.shaped import IFB, make, record

pytestmark = pytest.mark.usefixtures("own_records")

DEVICE = address(0)
PATIENCE_S = 20.0


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, that lives until it is killed."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def rate(lan: Lan, device: str) -> str:
    found = re.search(r"rate (\S+) ceil", lan.tc(f"class show dev {device} classid 1:10"))
    assert found
    return found[1]


async def rates_until(lan: Lan, device: str, last: str) -> list[str]:
    """The rates that a device's class goes through until it has the last one."""
    seen = [rate(lan, device)]
    async with asyncio.timeout(PATIENCE_S):
        while seen[-1] != last:
            await asyncio.sleep(0.01)
            now = rate(lan, device)
            seen += [now] if now != seen[-1] else []
    return seen


def test_rates_that_vary_are_played(lan: Lan) -> None:
    profile = parse("up=4mbit+1mbit@500ms+3mbit@1s down=7mbit+5mbit@1s")

    async def hold() -> list[list[str]]:
        async with Hold(Host(INTERFACE, lan.host), pytest.fail) as held:
            await held.set(DEVICE, profile)
            return await asyncio.gather(rates_until(lan, IFB, "3Mbit"), rates_until(lan, INTERFACE, "5Mbit"))

    # A step that begins within a tenth of a second is played as the mean of it.
    whole = [[text for text in seen if text.endswith("Mbit")] for seen in asyncio.run(hold())]
    assert whole == [["4Mbit", "1Mbit", "3Mbit"], ["7Mbit", "5Mbit"]]


@pytest.mark.slow
def test_what_passes_is_what_the_played_rate_passes(lan: Lan, tmp_path: Path) -> None:
    profiles = {DEVICE: parse("up=2mbit+6mbit@1s down=8mbit+2mbit@1s")}

    async def check() -> list[Check]:
        async with Hold(Host(INTERFACE, lan.host), pytest.fail) as held, Ends(tmp_path / "log") as ends:
            driver, server = await ends.serve(namespaces.prefix(lan.host), ADDRESS, 0, "cubic", [DEVICE])
            await ends.join(namespaces.prefix(lan.device(0)), server, "", "cubic")
            assert await driver.missing([DEVICE], READY_S) == []
            for _ in range(3):
                checks = await measure(held, driver, profiles, ("rate",), 2.0)
                if all(done.ok for done in checks):
                    break
            return checks

    checks = asyncio.run(check())
    assert [done.direction for done in checks] == ["up", "down"]
    assert all(done.ok for done in checks), [done.table() for done in checks]


@pytest.mark.parametrize("before", ["", "up=2mbit down=2mbit queue=64kb"])
def test_a_held_link_is_as_before_in_the_end(lan: Lan, before: str) -> None:
    host = make(lan, {0: before} if before else {})
    queueing = lan.shown()

    async def hold() -> None:
        async with Hold(host, pytest.fail) as held:
            await held.set(DEVICE, parse("up=1mbit+3mbit@1s down=500kbit"))
            assert (await host.show())[DEVICE]["profile"] == "up=1mbit+3mbit@1s down=500kbit"
            await held.set(DEVICE, parse("down=1mbit"))
            assert lan.shown() != queueing

    asyncio.run(hold())
    assert lan.shown() == queueing
    found = registry.find(f"@{INTERFACE}")
    assert (found is not None) == bool(before)
    if found:
        assert found.links[DEVICE] == {"address": DEVICE, "minor": 0x10, "profile": parse(before).table()}


def test_a_link_is_given_back_whatever_ends_the_hold(lan: Lan) -> None:
    host = make(lan, {0: "up=2mbit"})

    async def hold(begun: asyncio.Event) -> None:
        async with Hold(host, pytest.fail) as held:
            await held.set(DEVICE, parse("up=1mbit+3mbit@1s"))
            begun.set()
            await held.wait()

    async def interrupted() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(hold(begun))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(interrupted())
    assert host.profiles() == {DEVICE: parse("up=2mbit")}
    assert rate(lan, IFB) == "2Mbit"


def held_by(process: subprocess.Popen[bytes]) -> None:
    """Let another process hold what this one does."""
    found = record()
    link = found.links[DEVICE]
    held = link["held"] | {"pid": process.pid, "started": registry.start_of(process.pid)}
    dataclasses.replace(found, links={DEVICE: link | {"held": held}}).write()


def test_a_link_that_another_process_holds_is_left_to_it(lan: Lan, other: subprocess.Popen[bytes]) -> None:
    host = make(lan, {0: "up=2mbit"})
    asyncio.run(host.set(DEVICE, parse("up=1mbit+3mbit@1s"), holding=True))
    held_by(other)
    assert asyncio.run(host.show())[DEVICE]["note"] == f"held by process {other.pid}"
    for holding in (False, True):
        with pytest.raises(LinkError, match=rf"^eth0/{DEVICE} is held by process {other.pid}; valid: when that has"):
            asyncio.run(host.set(DEVICE, parse("up=1mbit"), holding=holding))
    asyncio.run(host.release(DEVICE))
    assert host.profiles() == {DEVICE: parse("up=2mbit")}
    make(lan, {1: "up=5mbit"})  # others are free
    asyncio.run(host.clear(DEVICE))  # which always works


def test_what_a_killed_process_held_can_be_had(lan: Lan, other: subprocess.Popen[bytes], tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,up_bps,down_bps\n0,1e6,1e6\n5,2e6,3e6\n")
    host = make(lan, {0: "up=2mbit"})
    asyncio.run(host.set(DEVICE, parse(f"up=csv:{trace} down=csv:{trace}"), holding=True))
    held_by(other)
    other.kill()
    other.wait()
    trace.unlink()
    shown = asyncio.run(host.show())[DEVICE]
    assert shown["profile"] == f"up=csv:{trace} down=csv:{trace}"
    assert shown["note"] == f"left by process {other.pid}, which has ended"
    assert host.profiles() == {DEVICE: parse("up=2mbit")}

    async def hold() -> None:
        async with Hold(host, pytest.fail) as held:
            await held.set(DEVICE, parse("up=4mbit"))

    asyncio.run(hold())
    assert record().links[DEVICE] == {"address": DEVICE, "minor": 0x10, "profile": parse("up=2mbit").table()}
    assert rate(lan, IFB) == "2Mbit"


def test_a_hold_ends_when_its_link_is_cleared(lan: Lan) -> None:
    host, before = Host(INTERFACE, lan.host), lan.shown()

    async def hold() -> None:
        async with Hold(host, pytest.fail) as held:
            await held.set(DEVICE, parse("up=1mbit+3mbit@50s"))
            waiting = asyncio.create_task(held.wait())
            await host.clear(DEVICE)
            await waiting

    with pytest.raises(LinkError, match=rf"^eth0/{DEVICE}: somebody has cleared it: not played any more$"):
        asyncio.run(hold())
    assert lan.shown() == before
    assert registry.owners() == []


def test_a_hold_ends_when_its_rates_cannot_be_set(lan: Lan) -> None:
    async def hold() -> None:
        async with Hold(Host(INTERFACE, lan.host), pytest.fail) as held:
            await held.set(DEVICE, parse("down=1mbit+3mbit@300ms"))
            lan.tc(f"qdisc del dev {INTERFACE} root")
            async with asyncio.timeout(PATIENCE_S):
                await held.wait()

    with pytest.raises(LinkError, match=r"^tc class change dev "):
        asyncio.run(hold())


def test_steps_that_the_kernel_cannot_play_are_told(lan: Lan) -> None:
    said: list[str] = []

    async def hold() -> None:
        async with Hold(Host(INTERFACE, lan.host), said.append) as held:
            await held.set(DEVICE, parse("down=0bit+5mbit@300ms+1mbit@600ms"))
            await rates_until(lan, INTERFACE, "1Mbit")

    asyncio.run(hold())
    assert len(said) == 1
    assert re.fullmatch(r"\d steps below 121 kbit/s were at that, HTB's least", said[0])


def test_what_stands_of_a_profile_holds_nothing_back_that_its_rates_pass(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,up_bps,down_bps\n0,0.25,0\n5,0.5,3123456.5\n9,0.5,1e5\n")
    profile = parse(f"up=csv:{trace} down=csv:{trace} delay=20ms queue=200ms")
    stands = standing(profile)
    assert (stands.up.rate, stands.down.rate) == ("1bit", "3.1234565mbit")
    assert stands.queue_bytes("down") == profile.queue_bytes("down")
    assert stands.down.delay == "20ms"
    assert standing(UNSHAPED) == UNSHAPED
    steps = parse("up=1mbit+2mbit@1s down=3mbit")
    assert played(steps) == ["(netlink, every 100 ms) up: 1mbit+2mbit@1s"]

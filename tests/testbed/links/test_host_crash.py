"""Whatever became of the program or of what it made: the record is enough to undo and to mend it."""

from __future__ import annotations

import asyncio
import re

import pytest

from testbed.links import operations, registry
from testbed.links.errors import LinkError
from testbed.links.host import Host
from testbed.links.kernel import Kernel
from testbed.links.profile import parse
from tests.testbed.links.lan import INTERFACE, Lan, address, shell
from tests.testbed.links.shaped import FOREIGN, IFB, make, record

pytestmark = pytest.mark.usefixtures("own_records")


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

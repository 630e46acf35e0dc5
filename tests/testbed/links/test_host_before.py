"""What the host's interface had before: put aside, never replaced unasked, and back in the end."""

from __future__ import annotations

import asyncio

import pytest

from testbed.links import registry
from testbed.links.errors import LinkError
from testbed.links.host import Host
from testbed.links.profile import parse
from tests.testbed.links.lan import INTERFACE, Lan, address, shell
from tests.testbed.links.shaped import FOREIGN, IFB, make

pytestmark = pytest.mark.usefixtures("own_records")


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

"""Operations carried out over netlink and by commands, and what goes wrong with them in one line."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import uuid
from collections.abc import Iterator, Sequence

import pytest

from testbed.links import ingress, kernel, namespaces
from testbed.links import operations as op
from testbed.links.errors import LinkError
from testbed.links.fast_htb import FastHtb
from testbed.links.kernel import Kernel
from testbed.links.operations import Operation
from testbed.links.shaper import burst
from tests.testbed.links.needs import needs

DEVICE, MINOR, RATE = "ifb9", 0x10, 125_000
real = needs("netns")


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"splitcom-test-{uuid.uuid4().hex[:8]}"
    try:
        run(op.add_namespace(name), op.add_ifb(name, DEVICE))
        yield name
    finally:
        for left in namespaces.listed(name):
            run(op.delete_namespace(left))


def run(*operations: Operation) -> None:
    async def carry_out() -> None:
        async with Kernel() as opened:
            await opened.run(operations)

    asyncio.run(carry_out())


def tc(namespace: str, text: str) -> str:
    command = ["tc", "-n", namespace, *text.split()]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def number(namespace: str) -> int:
    found = json.loads(subprocess.check_output(["ip", "-n", namespace, "-j", "link", "show", DEVICE]))
    return int(found[0]["ifindex"])


def link(namespace: str, device: str = DEVICE) -> str:
    command = ["ip", "-n", namespace, "-d", "link", "show", device]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def tree(namespace: str, minor: int = MINOR) -> Sequence[Operation]:
    return (
        op.add_htb(namespace, DEVICE, op.REST),
        op.htb_class("add", namespace, DEVICE, minor, RATE, burst(RATE)),
        op.bfifo("add", namespace, DEVICE, minor, 30_000),
    )


@real
def test_the_fast_way_changes_rate_ceiling_and_burst_and_keeps_the_queue(namespace: str) -> None:
    run(*tree(namespace))
    index = number(namespace)
    before = tc(namespace, f"qdisc show dev {DEVICE}")
    fast = FastHtb(namespace)
    try:
        for rate, text in ((2_500_000, "20Mbit"), (15_140, "121120bit"), (op.LINE_RATE, "32Gbit")):
            fast.change(index, MINOR, rate, burst(rate))
            shown = tc(namespace, f"class show dev {DEVICE} classid 1:{MINOR:x}")
            assert f"leaf {MINOR:x}: prio 0 rate {text} ceil {text} " in shown
            by_tc = op.htb_class("change", namespace, DEVICE, MINOR, rate, burst(rate))
            asyncio.run(kernel.command(by_tc.text))
            assert tc(namespace, f"class show dev {DEVICE} classid 1:{MINOR:x}") == shown
        assert tc(namespace, f"qdisc show dev {DEVICE}") == before
    finally:
        fast.close()


@real
def test_the_fast_way_makes_no_class_that_is_not_there(namespace: str) -> None:
    run(*tree(namespace))
    fast = FastHtb(namespace)
    try:
        with pytest.raises(LinkError, match="classid 1:11: No such file or directory"):
            fast.change(number(namespace), MINOR + 1, RATE, burst(RATE))
        with pytest.raises(LinkError, match=r"tc class change dev 99 classid 1:10: No such device"):
            fast.change(99, MINOR, RATE, burst(RATE))
    finally:
        fast.close()
    assert tc(namespace, f"class show dev {DEVICE}").count("class htb") == 1


@real
def test_an_unknown_interface_is_told_with_those_that_there_are(namespace: str) -> None:
    with pytest.raises(LinkError, match=f"interface 'eth7' does not exist; valid: {DEVICE}$"):
        run(op.set_up(namespace, "eth7"))


@real
def test_an_unknown_namespace_is_told() -> None:
    with pytest.raises(LinkError, match="network namespace splitcom-none: No such file or directory"):
        run(op.set_up("splitcom-none", "eth0"))


@real
def test_what_the_kernel_refuses_is_told_with_the_command_and_its_reason(namespace: str) -> None:
    made = op.htb_class("add", namespace, DEVICE, MINOR, RATE, burst(RATE))
    with pytest.raises(LinkError) as raised:
        run(made)
    assert str(raised.value).startswith(f"{made.text}: ")
    assert "\n" not in str(raised.value)


@real
def test_what_a_command_complains_about_is_told_in_one_line(namespace: str) -> None:
    with pytest.raises(LinkError, match=rf"tc -n {namespace} qdisc add dev {DEVICE} .*: Error: ") as raised:
        run(op.netem("add", namespace, DEVICE, MINOR, "limit 10"))
    assert "\n" not in str(raised.value)


def test_a_program_that_is_missing_is_told_with_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LinkError, match="no program tc; it comes with iproute2"):
        run(op.netem("add", "", "lo", MINOR, "limit 10"))


@real
def test_a_queue_takes_the_place_of_one_of_another_kind(namespace: str) -> None:
    """As netem's does, which not every kernel has."""
    run(*tree(namespace))
    tc(namespace, f"qdisc replace dev {DEVICE} parent 1:{MINOR:x} handle {op.NETEM | MINOR:x}: pfifo limit 9")
    assert f"pfifo {op.NETEM | MINOR:x}: parent 1:{MINOR:x}" in tc(namespace, f"qdisc show dev {DEVICE}")
    run(op.bfifo("replace", namespace, DEVICE, MINOR, 40_000))
    assert f"bfifo {MINOR:x}: parent 1:{MINOR:x} limit 40000b" in tc(namespace, f"qdisc show dev {DEVICE}")


@real
def test_what_a_device_says_of_segmentation_offload_is_read_back(namespace: str) -> None:
    async def read() -> int:
        async with Kernel() as opened:
            return await opened.gso_segments(namespace, DEVICE)

    before = asyncio.run(read())
    run(op.set_up(namespace, DEVICE, gso_segments=1))
    assert before > 1
    assert asyncio.run(read()) == 1


@real
def test_a_device_that_was_removed_is_looked_up_anew(namespace: str) -> None:
    remade = [op.delete_device(namespace, DEVICE), op.add_ifb(namespace, "ifb8"), op.add_ifb(namespace, DEVICE)]
    run(op.set_up(namespace, DEVICE), *remade, op.set_up(namespace, DEVICE))
    assert "UP" in link(namespace)


@real
def test_every_operation_does_over_netlink_what_its_command_does() -> None:
    """Two namespaces, one made either way, look the same."""
    names = [f"splitcom-test-{uuid.uuid4().hex[:8]}" for _ in range(2)]

    def operations(name: str) -> list[Operation]:
        return [
            op.add_ifb(name, DEVICE, 700),
            op.set_up(name, DEVICE, gso_segments=1),
            op.set_gso(name, DEVICE, 7),
            op.add_ifb(name, "br0"),
            op.add_ifb(name, "p0"),
            op.add_address(name, "br0", "10.1.2.3", 24),
            *tree(name),
            *tree(name, MINOR + 1)[1:],
            op.match_address(name, DEVICE, "10.1.2.4", op.SOURCE_OFFSET, MINOR, 5),
            op.match_address(name, DEVICE, "10.1.2.5", op.DESTINATION_OFFSET, MINOR + 1, 6),
            op.delete_filter(name, DEVICE, 6),
            op.delete_class(name, DEVICE, MINOR + 1),
            op.htb_class("change", name, DEVICE, MINOR, 2 * RATE, burst(2 * RATE)),
            op.bfifo("change", name, DEVICE, MINOR, 60_000),
            ingress.add_ingress(name, "br0"),
            ingress.redirect_ingress(name, "br0", DEVICE),
            op.add_htb(name, "p0", MINOR),
            op.delete_qdisc(name, "p0", "root"),
            ingress.add_ingress(name, "p0"),
            op.delete_qdisc(name, "p0", "ingress"),
            op.add_ifb(name, "gone"),
            op.delete_device(name, "gone"),
        ]

    def look(name: str) -> list[str]:
        shown = [subprocess.check_output(["ip", "-n", name, "addr"], text=True)]
        shown += [link(name, device).splitlines()[-1] for device in (DEVICE, "br0", "p0")]
        shown += [tc(name, f"{what} show dev {DEVICE}") for what in ("class", "filter")]
        shown += [tc(name, "qdisc show"), tc(name, "filter show dev br0 ingress")]
        # Addresses, ages and counts of devices differ, and an action's number is the next free one.
        varying = r"([0-9a-f]{2}:){5}\S+|inet6 \S+ |8000\.\S+|(hello|tcn|topology_change|gc)_timer\s+\S+"
        varying += r"|index \d+|direct_packets_stat \d+"
        return [re.sub(varying, "", text) for text in shown]

    async def by_commands() -> None:
        for operation in operations(names[1]):
            await kernel.command(operation.text)

    try:
        run(*map(op.add_namespace, names))
        run(*operations(names[0]))
        asyncio.run(by_commands())
        looks = [look(name) for name in names]
        assert looks[0] == looks[1]
        assert f"class htb 1:{MINOR:x} root leaf" in looks[0][4]
    finally:
        for name in names:
            run(op.delete_namespace(name))


@real
def test_an_htb_stands_below_another_queue_as_below_netem_which_not_every_kernel_has(namespace: str) -> None:
    run(op.set_up(namespace, DEVICE))
    tc(namespace, f"qdisc add dev {DEVICE} root handle 4010: tbf rate 1gbit burst 64kb limit 64kb")
    _, *rest = tree(namespace)
    run(op.add_htb(namespace, DEVICE, MINOR, below=op.NETEM | MINOR), *rest)
    assert "qdisc htb 1: parent 4010:1 " in tc(namespace, f"qdisc show dev {DEVICE}")
    fast = FastHtb(namespace)
    try:
        fast.change(number(namespace), MINOR, 2 * RATE, burst(2 * RATE))
    finally:
        fast.close()
    assert "rate 2Mbit" in tc(namespace, f"class show dev {DEVICE} classid 1:{MINOR:x}")
    run(op.delete_qdisc(namespace, DEVICE, "root"), *tree(namespace))
    assert "qdisc htb 1: root " in tc(namespace, f"qdisc show dev {DEVICE}")


@real
def test_classes_are_counted_by_their_number(namespace: str) -> None:
    run(*tree(namespace))

    async def count() -> dict[int, dict[str, int]]:
        async with Kernel() as opened:
            return {minor: stats async for minor, stats in opened.classes(namespace, DEVICE)}

    counted = asyncio.run(count())
    assert list(counted) == [MINOR]
    assert {counted[MINOR][key] for key in ("bytes", "packets", "drop", "backlog")} == {0}


def test_operations_are_written_as_a_person_would_type_them() -> None:
    assert op.set_up("", "eth0").text == "ip link set eth0 up"
    assert op.set_up("ns", "eth0", gso_segments=1).text == "ip -n ns link set eth0 gso_max_segs 1 up"
    assert op.add_ifb("", "sc-eth0").text == "ip link add sc-eth0 type ifb"
    assert op.delete_qdisc("", "eth0", "clsact").text == "tc qdisc del dev eth0 clsact"
    assert op.match_address("", "eth0", "10.0.0.1", op.SOURCE_OFFSET, 0x1F, 31).text == (
        "tc filter add dev eth0 parent 1: protocol ip prio 31 u32 match ip src 10.0.0.1/32 flowid 1:1f"
    )
    assert (
        op.add_htb("", "u0", 0x10, below=0x4010).text == "tc qdisc add dev u0 parent 4010:1 handle 1: htb default 0x10"
    )
    assert op.netem("add", "", "u0", 0x10, "limit 9", root=True).text == (
        "tc qdisc add dev u0 root handle 4010: netem limit 9"
    )

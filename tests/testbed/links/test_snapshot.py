"""The queueing of an interface taken as data and restored: what tc shows before and after is the same."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.links import namespaces, snapshot
from testbed.links.snapshot import AT_INGRESS, AT_ROOT
from testbed.links.tc_netlink import CLASSES, FILTERS, QDISCS
from tests.testbed.links.needs import needs

pytestmark = needs("netns")

DEVICE, INDEX = "d0", 77
WHERE = ("root", "parent 1:", "parent 1:1", "parent 2:", "ingress", "egress")
FOUND = {
    "nothing": "",
    "a shaper": "qdisc add dev d0 root tbf rate 50mbit burst 15k limit 100k",
    "a queue": "qdisc add dev d0 root handle 7: pfifo limit 42",
    "a queue per transmit queue": """
        qdisc add dev d0 root handle 1: mq
        qdisc replace dev d0 parent 1:2 handle 20: bfifo limit 90000b
    """,
    "classes below classes": """
        qdisc add dev d0 root handle 1: htb default 0x12 r2q 20
        class add dev d0 parent 1: classid 1:1 htb rate 100mbit
        class add dev d0 parent 1:1 classid 1:12 htb rate 10mbit ceil 50mbit burst 20k prio 2 quantum 3000
        class add dev d0 parent 1:1 classid 1:3 htb rate 7gbit ceil 40gbit
        class add dev d0 parent 1:3 classid 1:2 htb rate 1mbit
        qdisc add dev d0 parent 1:12 handle 2: htb default 5
        class add dev d0 parent 2: classid 2:5 htb rate 2mbit
        qdisc add dev d0 parent 2:5 handle 9: tbf rate 1mbit burst 10k latency 50ms
    """,
    "filters": """
        qdisc add dev d0 root handle 1: htb
        class add dev d0 parent 1: classid 1:1 htb rate 1mbit
        class add dev d0 parent 1:1 classid 1:2 htb rate 1mbit
        filter add dev d0 parent 1: protocol ip prio 9 u32 match ip dst 10.0.0.9/32 match ip dport 80 0xffff flowid 1:2
        filter add dev d0 parent 1: protocol ip prio 5 u32 match ip dst 10.0.0.5/32 flowid 1:2
        filter add dev d0 parent 1: protocol ip prio 5 u32 match ip dst 10.0.0.6/32 flowid 1:1
        filter add dev d0 parent 1: protocol ipv6 prio 6 u32 match ip6 dport 22 0xffff flowid 1:2
        filter add dev d0 parent 1:1 protocol all prio 2 u32 match u32 0 0 flowid 1:2
        filter add dev d0 parent 1: protocol all prio 3 bpf bytecode '1,6 0 0 4294967295,' flowid 1:2
        filter add dev d0 parent 1: protocol ip prio 4 chain 8 u32 match ip src 10.0.0.8/32 flowid 1:2
    """,
    "hash tables": """
        qdisc add dev d0 root handle 1: htb
        class add dev d0 parent 1: classid 1:1 htb rate 1mbit
        filter add dev d0 parent 1: prio 5 protocol ip u32
        filter add dev d0 parent 1: prio 5 handle 2: protocol ip u32 divisor 256
        filter add dev d0 parent 1: protocol ip prio 5 u32 ht 2:7b: match ip src 10.0.0.123 flowid 1:1
        filter add dev d0 parent 1: protocol ip prio 5 u32 ht 800:: match ip src 10.0.0.0/8 \
hashkey mask 0x000000ff at 12 link 2:
    """,
    "ingress": """
        qdisc add dev d0 ingress
        filter add dev d0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev d1
        filter add dev d0 ingress protocol ip prio 3 u32 match ip src 10.0.0.1/32 action mirred egress mirror dev d1
    """,
    "both hooks": """
        qdisc add dev d0 root handle 1: pfifo limit 7
        qdisc add dev d0 clsact
        filter add dev d0 ingress protocol ip prio 3 u32 match ip src 10.0.0.1/32 flowid 1:1
        filter add dev d0 egress protocol ip prio 4 bpf bytecode '1,6 0 0 0,' flowid 1:1
    """,
}


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"splitcom-test-{uuid.uuid4().hex[:8]}"
    try:
        subprocess.run(["ip", "netns", "add", name], check=True)
        pair = f"{DEVICE} index {INDEX} numtxqueues 2 type veth peer name d1"
        subprocess.run(["ip", "-n", name, "link", "add", *pair.split()], check=True)
        for device in (DEVICE, "d1"):
            subprocess.run(["ip", "-n", name, "link", "set", device, "up"], check=True)
        yield name
    finally:
        for left in namespaces.listed(name):
            subprocess.run(["ip", "netns", "del", left], check=True)


def tc(namespace: str, script: str) -> None:
    subprocess.run(["tc", "-n", namespace, "-batch", "-"], check=True, input=script.replace("'", '"'), text=True)


def shown(namespace: str) -> list[str]:
    """What tc says of the device, but for counters; a list has no order where it is the order of a hash."""
    asked = ["qdisc show", "class show", *(f"filter show {where}" for where in WHERE)]
    texts = []
    for words in asked:
        what, show, *where = words.split()
        command = ["tc", "-n", namespace, what, show, "dev", DEVICE, *where]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        said = re.sub(r"direct_packets_stat \d+| installed \d+ sec used \d+ sec", "", said)
        texts.append("\n".join(sorted(said.splitlines())) if what != "filter" else said)
    return texts


def remove(namespace: str, taken: dict[str, Any]) -> None:
    """The kernel's default again."""
    for where in (AT_ROOT, AT_INGRESS):
        entry = snapshot.top(taken, where)
        if entry is not None:
            word = entry["kind"] if where == AT_INGRESS else "root"
            tc(namespace, f"qdisc del dev {DEVICE} {word}\n")


@pytest.mark.parametrize("script", FOUND.values(), ids=FOUND)
def test_what_was_there_comes_back_exactly(namespace: str, script: str) -> None:
    plain = shown(namespace)
    tc(namespace, script)
    before = shown(namespace)
    assert (before == plain) == (not script)
    taken = json.loads(json.dumps(snapshot.take(namespace, INDEX)))
    assert (taken == snapshot.DEFAULT) == (not script)
    remove(namespace, taken)
    assert shown(namespace) == plain
    assert snapshot.restore(namespace, INDEX, taken) == []
    assert shown(namespace) == before
    assert snapshot.take(namespace, INDEX) == taken or "mirred" in script  # an action tells how old it is


def test_filters_come_back_under_other_numbers_where_theirs_are_not_to_be_had(namespace: str) -> None:
    tc(namespace, FOUND["filters"] + "\nfilter del dev d0 parent 1: protocol ip prio 9 u32\n")
    taken = snapshot.take(namespace, INDEX)
    before = shown(namespace)
    remove(namespace, taken)
    told = snapshot.restore(namespace, INDEX, taken)
    assert told
    assert all(re.fullmatch(r"filter u32 \w+:\w+:\w+ of priority \d+ has another handle now", line) for line in told)
    numbers = re.compile(r"fh \S+|key ht \S+|order \d+")
    assert [numbers.sub("", text) for text in shown(namespace)] == [numbers.sub("", text) for text in before]


def test_what_the_kernel_refuses_is_told_with_its_reason(namespace: str) -> None:
    tc(namespace, FOUND["classes below classes"])
    taken = snapshot.take(namespace, INDEX)
    remove(namespace, taken)
    for entry in taken[QDISCS]:
        if entry["kind"] == "tbf":
            entry["kind"] = "nonsense"
    told = snapshot.restore(namespace, INDEX, taken)
    assert told == ["qdisc nonsense 9: is not restored: Specified qdisc kind is unknown"]


def test_entries_are_named_as_tc_writes_them(namespace: str) -> None:
    tc(namespace, FOUND["hash tables"])
    taken = snapshot.take(namespace, INDEX)
    names = [snapshot.name(FILTERS, entry) for entry in taken[FILTERS]]
    assert "filter u32 2:7b:800 of priority 5" in names
    assert [snapshot.name(QDISCS, entry) for entry in taken[QDISCS]] == ["qdisc htb 1:"]
    assert snapshot.name(CLASSES, taken[snapshot.CLASSES][0]) == "class htb 1:1"


@pytest.mark.parametrize(
    ("attributes", "lost"),
    [
        ({2: struct.pack("6I", 0, 1000, 0, 0, 0, 5)}, ["a distribution of delays that qdisc netem 8: may have"]),
        ({2: struct.pack("6I", 9, 1000, 0, 0, 0, 0)}, []),
        ({2: bytes(24), 8: b""}, ["the size table of qdisc netem 8:"]),
        ({2: bytes(24), 13: b""}, ["the shared filter block of qdisc netem 8:"]),
    ],
)
def test_what_the_kernel_does_not_tell_is_known_to_be_lost(attributes: dict[int, bytes], lost: list[str]) -> None:
    told: list[str] = []
    snapshot._entry(QDISCS, (1, 0x80000, AT_ROOT, 2), {1: b"netem\0", **attributes}, told)
    assert told == lost


def test_what_is_known_to_be_lost_is_told(namespace: str) -> None:
    taken = snapshot.DEFAULT | {"lost": ["the size table of qdisc tbf 8001:"]}
    assert snapshot.restore(namespace, INDEX, taken) == ["the size table of qdisc tbf 8001: is not restored"]


def test_a_device_that_is_not_there_cannot_be_restored(namespace: str) -> None:
    tc(namespace, FOUND["a queue"])
    taken = snapshot.take(namespace, INDEX)
    told = snapshot.restore(namespace, INDEX + 1, taken)
    assert len(told) == 1
    assert told[0].startswith("qdisc pfifo 7: is not restored: ")

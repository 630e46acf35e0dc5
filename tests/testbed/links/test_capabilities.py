"""Which back-end links get, from what the kernel and the privileges allow."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from testbed.links.capabilities import capabilities, choose, why_not
from testbed.links.errors import LinkError

ALL: dict[str, Any] = {
    "platform": "linux",
    "kernel": "6.1",
    "capabilities": {"CAP_NET_ADMIN": True, "CAP_NET_RAW": True, "CAP_SYS_ADMIN": True},
    "tun": True,
    "pyroute2": True,
    "namespaces": True,
    "qdiscs": {"htb": True, "bfifo": True, "netem": True, "ingress": True},
    "filters": {"u32": True, "mirred": True},
    "devices": {"bridge": True, "ifb": True, "veth": True},
}


def without(**changes: Any) -> dict[str, Any]:
    """A system that has everything but what is said; a dict changes a group."""
    found = copy.deepcopy(ALL)
    for key, value in changes.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    return found


NO_NETEM = without(qdiscs={"netem": "ENOENT"})
NO_ROOT = without(
    capabilities={"CAP_NET_ADMIN": False, "CAP_SYS_ADMIN": False}, namespaces="EPERM", tun=False, devices={}
)


@pytest.mark.parametrize(
    ("needs", "found", "backend"),
    [
        ({"rate"}, ALL, "netns"),
        ({"rate", "varying"}, NO_NETEM, "netns"),
        ({"rate", "delay", "loss"}, ALL, "netns"),
        ({"rate", "delay"}, NO_NETEM, "tun"),
        ({"rate", "mahimahi"}, ALL, "tun"),
        ({"rate", "delay"}, NO_ROOT, "proxy"),
        (set(), ALL, "none"),
    ],
)
def test_auto_takes_the_first_that_can_do_all_that_is_needed(
    needs: set[str], found: dict[str, Any], backend: str
) -> None:
    assert choose("auto", needs, found)[0] == backend


def test_auto_says_why_it_did_not_take_the_one_before() -> None:
    assert "sch_netem" in choose("auto", {"delay"}, NO_NETEM)[1]
    assert "CAP_NET_ADMIN" in choose("auto", {"rate"}, NO_ROOT)[1]


def test_auto_refuses_rather_than_leave_something_out() -> None:
    with pytest.raises(LinkError, match="CAP_NET_ADMIN"):
        choose("auto", {"loss"}, NO_ROOT)


@pytest.mark.parametrize(
    ("backend", "needs", "found", "said"),
    [
        ("netns", {"rate"}, NO_ROOT, "CAP_NET_ADMIN and CAP_SYS_ADMIN"),
        ("netns", {"delay"}, NO_NETEM, "use tun"),
        ("netns", {"mahimahi"}, ALL, "valid for it: tun"),
        ("netns", {"rate"}, without(qdiscs={"htb": "ENOENT"}), "modprobe sch_htb"),
        ("netns", {"rate"}, without(devices={"veth": "EOPNOTSUPP"}), "veth"),
        ("tun", {"rate"}, without(tun=False), "/dev/net/tun"),
        ("host", {"rate"}, without(filters={"mirred": "ENOENT"}), "act_mirred"),
        ("host", {"loss"}, NO_NETEM, "sch_netem"),
        ("proxy", {"loss"}, ALL, "proxy does not emulate loss"),
        ("none", {"rate"}, ALL, "none does not emulate rate"),
        ("tun", {"rate"}, without(platform="darwin"), "needs Linux"),
        ("netns", {"rate"}, without(pyroute2=False), "the package pyroute2"),
    ],
)
def test_what_a_back_end_cannot_do_is_told_with_what_to_do(
    backend: str, needs: set[str], found: dict[str, Any], said: str
) -> None:
    refusal = why_not(backend, needs, found)
    assert refusal is not None
    assert said in refusal
    with pytest.raises(LinkError, match=r"links\.backend"):
        choose(backend, needs, found)


def test_host_needs_no_namespaces() -> None:
    assert why_not("host", {"rate"}, without(capabilities={"CAP_SYS_ADMIN": False}, namespaces="EPERM")) is None


def test_the_probe_tells_of_this_system() -> None:
    found = capabilities()
    assert found["kernel"]
    assert set(found) >= {"capabilities", "namespaces", "qdiscs", "devices", "filters", "tun", "congestion"}
    assert why_not("proxy", {"rate", "delay"}, found) is None

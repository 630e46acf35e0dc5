"""What this kernel and these privileges allow, found by trying: `python -m testbed.links.probe` prints it as JSON.

Everything is tried in a network namespace of this process alone, which ends with it; the host's devices are not
touched. Where such a namespace may not be made (CAP_NET_ADMIN without CAP_SYS_ADMIN), queues and filters are tried on
an ifb of its own in the current one, which is removed again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
_CLONE_NEWNET = 0x40000000
_ROOT, _INGRESS, _ANY_PARENT = 0x10000, 0xFFFF0000, 0xFFFFFFFF

Found = dict[str, "bool | str"]


def probe() -> dict[str, Any]:
    """By name what can be had: True, or the errno of what the kernel said to it."""
    found: dict[str, Any] = {
        "platform": sys.platform,
        "kernel": os.uname().release,
        "uid": os.geteuid(),
        "capabilities": _capabilities(),
        "tun": os.access("/dev/net/tun", os.R_OK | os.W_OK),
        "congestion": _read("/proc/sys/net/ipv4/tcp_available_congestion_control").split(),
        "congestion_default": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }
    found["pyroute2"] = importlib.util.find_spec("pyroute2") is not None
    if sys.platform != "linux" or not found["pyroute2"]:
        return found | {"namespaces": "not tried", "qdiscs": {}, "devices": {}, "filters": {}}
    libc = ctypes.CDLL(None, use_errno=True)
    own = libc.unshare(_CLONE_NEWNET) == 0
    found["namespaces"] = True if own else _name(ctypes.get_errno())
    with _device(own) as (ipr, index):
        found["qdiscs"], found["filters"] = (_qdiscs(ipr, index), _filters(ipr, index)) if index else ({}, {})
        found["devices"] = _devices(ipr) if own else {"ifb": index is not None}
    return found


def _capabilities() -> dict[str, bool]:
    if sys.platform != "linux":
        return dict.fromkeys(CAPABILITIES, False)
    line = next(line for line in _read("/proc/self/status").splitlines() if line.startswith("CapEff"))
    effective = int(line.split()[1], 16)
    return {name: bool(effective >> bit & 1) for name, bit in CAPABILITIES.items()}


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return ""


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def _try(call: Callable[[], Any]) -> bool | str:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        call()
    except NetlinkError as error:
        return _name(error.code)
    except OSError as error:
        return _name(error.errno or 0)
    return True


@contextlib.contextmanager
def _device(own: bool) -> Iterator[tuple[Any, int | None]]:
    """Netlink, and the number of a device to try things on: loopback in a namespace of our own, else an ifb."""
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        if own:
            yield ipr, 1
            return
        name = f"splitcom{os.getpid() % 10**6}"
        if _try(lambda: ipr.link("add", ifname=name, kind="ifb")) is not True:
            yield ipr, None
            return
        index = ipr.link_lookup(ifname=name)[0]
        try:
            yield ipr, index
        finally:
            ipr.link("del", index=index)


def _qdiscs(ipr: Any, index: int) -> Found:
    from pyroute2.netlink.rtnl import tcmsg
    from pyroute2.netlink.rtnl.tcmsg import sched_pfifo

    tcmsg.plugins.setdefault("bfifo", sched_pfifo)
    kinds = {"htb": {"default": 0}, "bfifo": {"limit": 100_000}, "netem": {"delay": 1000}}
    found: Found = {}
    for kind, options in kinds.items():
        found[kind] = _try(partial(ipr.tc, "add", kind, index, _ROOT, **options))
        if found[kind] is True:
            ipr.tc("del", index=index, parent=_ANY_PARENT)
    found["ingress"] = _try(lambda: ipr.tc("add", "ingress", index, _INGRESS))
    return found


def _filters(ipr: Any, index: int) -> Found:
    if _try(lambda: ipr.tc("add", "htb", index, _ROOT, default=0x10)) is not True:
        return {"u32": False, "mirred": False}
    keys = ["0x0a000001/0xffffffff+16"]
    u32 = _try(
        lambda: ipr.tc("add-filter", "u32", index, parent=_ROOT, protocol=0x0800, target=_ROOT | 0x10, keys=keys)
    )
    action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": index}
    mirred = _try(
        lambda: ipr.tc(
            "add-filter", "u32", index, parent=_INGRESS, protocol=3, target=_ROOT, keys=["0x0/0x0+0"], action=action
        )
    )
    return {"u32": u32, "mirred": mirred}


def _devices(ipr: Any) -> Found:
    options: dict[str, dict[str, str]] = {"bridge": {}, "ifb": {}, "veth": {"peer": "probe-peer"}}
    found: Found = {}
    for kind, more in options.items():
        found[kind] = _try(partial(ipr.link, "add", ifname=f"probe-{kind}", kind=kind, **more))
    return found


if __name__ == "__main__":
    print(json.dumps(probe()))

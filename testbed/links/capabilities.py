"""Which back-ends this system allows, and which one a set of links gets."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from testbed.links.base import DELAY, JITTER, LOSS, MAHIMAHI, RATE, VARYING
from testbed.links.errors import LinkError

PROBE_S = 20.0
NETEM = frozenset({DELAY, JITTER, LOSS})
CAN = {
    "none": frozenset[str](),
    "netns": frozenset({RATE, VARYING, DELAY, JITTER, LOSS}),
    "tun": frozenset({RATE, VARYING, MAHIMAHI, DELAY, JITTER, LOSS}),
    "host": frozenset({RATE, DELAY, JITTER, LOSS}),
    "proxy": frozenset({RATE, VARYING, DELAY, JITTER}),
}
WHAT = {
    "none": "no emulation",
    "netns": "a network namespace per client, shaped by the kernel",
    "tun": "a network namespace per client, every packet through an emulator in user space",
    "host": "devices behind an interface of this machine, shaped by its kernel",
    "proxy": "a shaping TCP relay per client; no packets, no slow start, no loss",
}
_MODULES = {"htb": "sch_htb", "ingress": "sch_ingress", "u32": "cls_u32", "mirred": "act_mirred", "netem": "sch_netem"}
_ADD = "run as root, or in a container with `--cap-add NET_ADMIN --cap-add SYS_ADMIN --device /dev/net/tun`"


@functools.cache
def capabilities() -> dict[str, Any]:
    """What `testbed.links.probe` finds, tried once in a process of its own; LinkError where it cannot tell."""
    command = [sys.executable, "-m", "testbed.links.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        raise LinkError(f"finding out what this kernel can do took longer than {PROBE_S:g} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise LinkError(f"what this kernel can do is not to be found out: {last[0]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def why_not(backend: str, needs: Iterable[str], found: Mapping[str, Any]) -> str | None:
    """Why a back-end cannot do what is needed here, and what to do about it, in one sentence; None where it can."""
    needs = frozenset(needs)
    missing = sorted(needs - CAN[backend])
    if missing:
        able = [name for name, can in CAN.items() if needs <= can and name != "host"]
        return f"links.backend: {backend} does not emulate {' and '.join(missing)}; valid for it: {', '.join(able)}"
    if backend in ("none", "proxy"):
        return None
    if found["platform"] != "linux":
        return f"links.backend: {backend} needs Linux, and this is {found['platform']}; valid here: proxy, none"
    if not found["pyroute2"]:
        return f"links.backend: {backend} needs the package pyroute2; `pip install splitcom[testbed]`, or use proxy"
    held = found["capabilities"]
    lacking = [name for name in ("CAP_NET_ADMIN", "CAP_SYS_ADMIN") if not held[name]]
    if backend == "host":
        lacking = [name for name in lacking if name == "CAP_NET_ADMIN"]
    if lacking or (backend != "host" and found["namespaces"] is not True):
        return f"links.backend: {backend} needs {' and '.join(lacking) or 'network namespaces'}; {_ADD}, or use proxy"
    if backend == "tun":
        return None if found["tun"] else f"links.backend: tun needs read and write access to /dev/net/tun; {_ADD}"
    return _missing_modules(backend, needs, found)


def _missing_modules(backend: str, needs: frozenset[str], found: Mapping[str, Any]) -> str | None:
    wanted = {"qdiscs": ["htb", "bfifo", "ingress"], "filters": ["u32", "mirred"], "devices": ["ifb"]}
    if backend == "netns":
        wanted["devices"] += ["veth", "bridge"]
    missing = [kind for group, kinds in wanted.items() for kind in kinds if found[group].get(kind) is not True]
    if missing:
        modules = " ".join(_MODULES.get(kind, kind) for kind in missing)
        return (
            f"links.backend: {backend} needs {', '.join(missing)}, which this kernel ({found['kernel']}) lacks; "
            f"try `modprobe {modules}`, or use {'tun' if backend == 'netns' else 'proxy'}"
        )
    emulated = sorted(needs & NETEM)
    if emulated and found["qdiscs"].get("netem") is not True:
        return (
            f"links.backend: {backend} needs sch_netem for {' and '.join(emulated)}, which this kernel "
            f"({found['kernel']}) lacks; try `modprobe sch_netem`"
            + (", or use tun, which emulates them in user space" if backend == "netns" else "")
        )
    return None


def choose(backend: str, needs: Iterable[str], found: Mapping[str, Any]) -> tuple[str, str]:
    """The back-end for links of a run on this machine, and why it is that one; LinkError says what is missing.

    `auto` takes the first of netns, tun and proxy that can do all that is needed, and proxy only without privileges.
    """
    needs = frozenset(needs)
    if backend != "auto":
        refusal = why_not(backend, needs, found)
        if refusal is not None:
            raise LinkError(refusal)
        return backend, "as asked"
    if not needs:
        return "none", "no link is shaped"
    refusals = {name: why_not(name, needs, found) for name in ("netns", "tun", "proxy")}
    for name, refusal in refusals.items():
        if refusal is None:
            before = [text for text in refusals.values() if text is not None]
            return name, before[-1].removeprefix("links.backend: ") if before else WHAT[name]
    raise LinkError(refusals["tun"] or "")

"""The two HTB trees that shape the devices behind an interface, and what makes, changes and removes them.

    to a device:   the interface: HTB 1:, a class per device, u32 on the destination
    from a device: the interface: ingress, all to an ifb of the interface's own: the same tree, u32 on the source

Everybody else is in a class at line rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.links import ingress, snapshot
from testbed.links import operations as op
from testbed.links.kernel import Kernel
from testbed.links.operations import Operation
from testbed.links.profile import LinkProfile, from_table
from testbed.links.shaper import Shaper, SharedShaper, burst
from testbed.links.snapshot import AT_INGRESS, AT_ROOT, Snapshot, top
from testbed.links.tc_netlink import CLASSES, FILTERS, QDISCS, Entry
from testbed.links.traces import Way

NAME_MAX = 15  # of an interface
QUEUE_PACKETS = 1000  # of what is not shaped, on the ifb; its own 32 would drop
GSO_SEGMENTS = 1
PLACES = {AT_INGRESS: "ingress", AT_ROOT: "root"}
_OURS = {AT_INGRESS: ("ingress", op.INGRESS), AT_ROOT: ("htb", op.ROOT)}
_OFFSETS: dict[Way, int] = {"up": op.SOURCE_OFFSET, "down": op.DESTINATION_OFFSET}

# A device in the record: its address, its number in both trees, and its profile.
Link = Mapping[str, Any]


def profile_of(link: Link) -> LinkProfile:
    """The profile of a device in the record."""
    return from_table(link["profile"], Path())


def ifb_name(interface: str) -> str:
    """The ifb of an interface: with its name, or with the beginning and a checksum of one that is too long."""
    name = f"sc-{interface}"
    return name if len(name) <= NAME_MAX else f"sc_{interface[:6]}{hashlib.sha256(interface.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class State:
    """The queueing of an interface and of its ifb, None where there is no ifb."""

    interface: Snapshot
    ifb: Snapshot | None

    @property
    def whole(self) -> bool:
        """Whether both trees stand, and what is received goes through the second."""
        redirected = any(entry["parent"] == op.INGRESS for entry in self.interface[FILTERS])
        return self.ifb is not None and redirected and all(_stands(tree) for tree in (self.interface, self.ifb))

    def shapes(self, minor: int) -> bool:
        """Whether all of a device's parts are there."""
        return self.ifb is not None and all(all(_parts(tree, minor)) for tree in (self.interface, self.ifb))


def _stands(tree: Snapshot) -> bool:
    root = top(tree, AT_ROOT)
    return root is not None and _same(root, _OURS[AT_ROOT]) and _parts(tree, op.REST)[0]


def _same(entry: Entry, of: tuple[str, int]) -> bool:
    return (entry["kind"], entry["handle"]) == of


def _parts(tree: Snapshot, minor: int) -> tuple[bool, bool, bool]:
    """Whether a device's class, queue and filter are in a tree."""
    return (
        any(entry["handle"] == op.ROOT | minor for entry in tree[CLASSES]),
        any(entry["parent"] == op.ROOT | minor for entry in tree[QDISCS]),
        any(entry["parent"] == op.ROOT and entry["info"] >> 16 == minor for entry in tree[FILTERS]),
    )


class Trees:
    """Both trees of an interface of a namespace (empty: this program's own)."""

    def __init__(self, namespace: str, interface: str) -> None:
        self._namespace, self._interface = namespace, interface
        self.ifb = ifb_name(interface)

    async def state(self, kernel: Kernel) -> State:
        """What there is now; LinkError where there is no such interface."""
        net = await kernel.within(self._namespace)
        index, ifb = await net.index(self._interface), None
        if self.ifb in await net.devices():
            ifb = snapshot.take(self._namespace, await net.index(self.ifb))
        return State(snapshot.take(self._namespace, index), ifb)

    def shapers(self, link: Link) -> tuple[Shaper, Shaper]:
        """A device's way up and its way down."""
        return (
            SharedShaper(self._namespace, self.ifb, link["minor"], "up"),
            SharedShaper(self._namespace, self._interface, link["minor"], "down"),
        )

    def make(self) -> list[Operation]:
        """What makes both, on an interface with the kernel's default queueing."""
        here, burst_bytes = self._namespace, burst(op.LINE_RATE)
        made = [
            op.set_gso(here, self._interface, GSO_SEGMENTS),
            op.add_ifb(here, self.ifb, QUEUE_PACKETS),
            op.set_up(here, self.ifb, GSO_SEGMENTS),
        ]
        for device in (self.ifb, self._interface):
            made.append(op.add_htb(here, device, op.REST))
            made.append(op.htb_class("add", here, device, op.REST, op.LINE_RATE, burst_bytes))
        made.append(ingress.add_ingress(here, self._interface))
        return [*made, ingress.redirect_ingress(here, self._interface, self.ifb)]

    def add(self, link: Link) -> list[Operation]:
        """What adds a device."""
        made = []
        for shaper in self.shapers(link):
            made += shaper.build(profile_of(link))
            match = (shaper.device, link["address"], _OFFSETS[shaper.way], shaper.minor)
            made.append(op.match_address(self._namespace, *match, priority=shaper.minor))
        return made

    def change(self, old: Link, new: Link) -> list[Operation]:
        """What gives a device another profile while what waits in its queues stays."""
        return [made for shaper in self.shapers(new) for made in shaper.change(profile_of(old), profile_of(new))]

    def drop(self, state: State, link: Link) -> list[Operation]:
        """What removes a device, or what there is of it."""
        made, minor = [], link["minor"]
        for device, tree in ((self.ifb, state.ifb), (self._interface, state.interface)):
            if tree is None:
                continue
            has_class, _, has_filter = _parts(tree, minor)
            made += [op.delete_filter(self._namespace, device, minor)] if has_filter else []
            made += [op.delete_class(self._namespace, device, minor)] if has_class else []
        return made

    def foreign(self, state: State) -> str:
        """What of an interface that we have not touched yet is somebody else's work, and what to do about it."""
        for where, place in PLACES.items():
            entry = top(state.interface, where)
            if entry is not None:
                found = f"{snapshot.name(QDISCS, entry)} at its {place}, which somebody else set up"
                return f"{self._interface} has {found}; valid: --force, which puts it aside until `link clear`"
        if state.ifb is not None:
            return f"there is an interface {self.ifb} and no record of it; valid: --force, which replaces it"
        return ""

    def remove(self, state: State, before: Snapshot) -> tuple[list[Operation], list[str]]:
        """What removes both trees, or what there is of them, and what else is there instead of them, a line each.

        `before` is what the interface had; where it still has it, or has it again in part, that goes as well.
        """
        made, others = [], []
        for where, place in PLACES.items():
            entry, was = top(state.interface, where), top(before, where)
            if entry is None:
                continue
            if _same(entry, _OURS[where]) or (was and _same(entry, (was["kind"], was["handle"]))):
                word = entry["kind"] if entry["kind"] == "clsact" else place
                made.append(op.delete_qdisc(self._namespace, self._interface, word))
            else:
                found = snapshot.name(QDISCS, entry)
                others.append(f"{self._interface} has {found} at its {place}, which somebody else set up since")
        if state.ifb is not None:
            made.append(op.delete_device(self._namespace, self.ifb))
        return made, others

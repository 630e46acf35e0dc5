"""The queueing of an interface as it was found, as plain data, and its restoration: qdiscs, classes and filters.

The kernel's own bytes are kept and sent back to it, whatever the kinds, but for what it tells and does not take. Qdiscs
with handle 0: are the kernel's defaults, which come back by themselves, and so are not kept. Counters begin anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from testbed.links.tc_netlink import CHAIN, CLASSES, FILTERS, KIND, OPTIONS, QDISCS, Entry, TcSocket, join, split

# {"qdiscs": [entry, ...], "classes": [...], "filters": [...], "lost": [what is known not to come back, ...]}
Snapshot = dict[str, Any]

DEFAULT: Snapshot = {QDISCS: [], CLASSES: [], FILTERS: [], "lost": []}
AT_ROOT, AT_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1  # parents of what hangs on the interface itself
_WORD = {QDISCS: "qdisc", CLASSES: "class", FILTERS: "filter"}

_STAB, _INGRESS_BLOCK, _EGRESS_BLOCK = 8, 13, 14  # attributes
_CLASSES_OF_THEIR_OWN = ("htb", "hfsc", "drr", "qfq")  # the classes of others come with their qdisc
_HTB_INIT, _HTB_VERSION = 2, 3  # it tells more of its version than it takes
_FLAGS = {"u32": 11, "flower": 22, "matchall": 3, "bpf": 9}
_FLAGS_TAKEN = 0b10011  # skip hardware, skip software, verbose; it also tells whether the hardware has it
_U32_HASH, _U32_DIVISOR, _U32_COUNTERS = 2, 4, 9
_U32_ROOT, _U32_NODE, _U32_OWN_TABLES = 0xFFF00000, 0xFFF, 0x80000000
_NETEM_JITTER = struct.Struct("20xI")


def take(namespace: str, index: int) -> Snapshot:
    """The queueing of a device of a namespace ("" is this program's own); OSError where it cannot be read."""
    with TcSocket(namespace) as netlink:
        lost: list[str] = []
        qdiscs = [_entry(*found, lost) for found in netlink.dump(QDISCS, index) if found[1][1]]
        rooted = any(entry["parent"] == AT_ROOT for entry in qdiscs)
        classes = [_entry(*found) for found in (netlink.dump(CLASSES, index) if rooted else ())]
        classes = [entry for entry in classes if entry["kind"] in _CLASSES_OF_THEIR_OWN and entry["handle"] & 0xFFFF]
        filters = []
        for parent in _parents(qdiscs, classes):
            found_here = [_entry(*found) for found in netlink.dump(FILTERS, index, parent)]
            filters += [entry for entry in found_here if entry["handle"] or entry["options"]]
    return {QDISCS: qdiscs, CLASSES: classes, FILTERS: filters, "lost": lost}


def restore(namespace: str, index: int, snapshot: Snapshot) -> list[str]:
    """Make a device's queueing, now the kernel's default, what it was; what did not come back, a line each.

    Raises OSError where the kernel cannot be asked.
    """
    told = [f"{text} is not restored" for text in snapshot["lost"]]
    refused = []
    with TcSocket(namespace) as netlink:
        for what, entry in _in_order(snapshot):
            refusal = netlink.make(what, index, entry)
            if refusal:
                refused.append((what, entry))
                told.append(f"{name(what, entry)} is not restored: {refusal}")
    there = [(what, _identity(entry)) for what, entry in _all(take(namespace, index))]
    for what, entry in _all(snapshot):
        if (what, _identity(entry)) not in there and (what, entry) not in refused:
            told.append(f"{name(what, entry)} has another handle now")
    return told


def top(snapshot: Snapshot, parent: int) -> Entry | None:
    """The qdisc AT_ROOT or AT_INGRESS; None where that is the kernel's default."""
    return next((entry for entry in snapshot[QDISCS] if entry["parent"] == parent), None)


def name(what: str, entry: Entry) -> str:
    """An entry for the user, as tc writes it."""
    handle, kind = entry["handle"], entry["kind"]
    if what != FILTERS:
        return f"{_WORD[what]} {kind} {handle >> 16:x}:" + (f"{handle & 0xFFFF:x}" if handle & 0xFFFF else "")
    number = f"{handle >> 20:x}:{handle >> 12 & 0xFF:x}:{handle & _U32_NODE:x}" if kind == "u32" else f"0x{handle:x}"
    return f"{_WORD[what]} {kind} {number} of priority {entry['info'] >> 16}"


def names(snapshot: Snapshot) -> list[str]:
    """All entries for the user, in the order in which they are restored."""
    return [name(what, entry) for what, entry in _in_order(snapshot)]


def _all(snapshot: Snapshot) -> Iterator[tuple[str, Entry]]:
    for what in (QDISCS, CLASSES, FILTERS):
        for entry in snapshot[what]:
            yield what, entry


def _identity(entry: Entry) -> tuple[Any, ...]:
    return tuple(entry[key] for key in ("kind", "handle", "parent", "info", "chain"))


def _parents(qdiscs: Iterable[Entry], classes: Iterable[Entry]) -> list[int]:
    """Where filters may be."""
    found = []
    for entry in qdiscs:
        both_ways = entry["kind"] == "clsact"
        found += [entry["handle"] | 0xFFF2, entry["handle"] | 0xFFF3] if both_ways else [entry["handle"]]
    return found + [entry["handle"] for entry in classes]


def _entry(
    what: str, head: tuple[int, int, int, int], attributes: dict[int, bytes], lost: list[str] | None = None
) -> Entry:
    """What is kept of a message: of its attributes those that it takes to make the same again."""
    _, handle, parent, info = head
    kind = attributes[KIND].rstrip(b"\0").decode()
    options = attributes.get(OPTIONS)
    entry = {
        "kind": kind,
        "handle": handle,
        "parent": parent,
        "info": info if what == FILTERS else 0,
        "chain": int.from_bytes(attributes.get(CHAIN, b""), "little"),
        "options": None if options is None else _settled(what, kind, options).hex(),
    }
    if lost is not None:
        if _STAB in attributes:
            lost.append(f"the size table of {name(what, entry)}")
        if _INGRESS_BLOCK in attributes or _EGRESS_BLOCK in attributes:
            lost.append(f"the shared filter block of {name(what, entry)}")
        if kind == "netem" and options is not None and _NETEM_JITTER.unpack_from(options)[0]:
            lost.append(f"a distribution of delays that {name(what, entry)} may have")
    return entry


def _settled(what: str, kind: str, options: bytes) -> bytes:
    """Options without what the kernel tells and does not take."""
    if what == QDISCS and kind == "htb":
        return join(
            (number, struct.pack("I", _HTB_VERSION) + value[4:16] + bytes(4) if number == _HTB_INIT else value)
            for number, value in split(options)
        )
    if what != FILTERS or kind not in _FLAGS:
        return options
    kept = []
    for number, value in split(options):
        if number == _FLAGS[kind]:
            value = struct.pack("I", int.from_bytes(value, "little") & _FLAGS_TAKEN)
        if kind != "u32" or number != _U32_COUNTERS:
            kept.append((number, value))
    return join(kept)


def _in_order(snapshot: Snapshot) -> Iterator[tuple[str, Entry]]:
    """Everything after what it hangs on: each qdisc, then its classes from the top, then their qdiscs; filters last."""
    waiting = [entry for entry in snapshot[QDISCS] if entry["parent"] not in (AT_ROOT, AT_INGRESS)]
    ready = [entry for entry in snapshot[QDISCS] if entry["parent"] in (AT_ROOT, AT_INGRESS)]
    while ready:
        qdisc = ready.pop(0)
        yield QDISCS, qdisc
        classes = [entry for entry in snapshot[CLASSES] if entry["handle"] >> 16 == qdisc["handle"] >> 16]
        above = {qdisc["handle"], AT_ROOT}
        while classes:
            now = [entry for entry in classes if entry["parent"] in above] or classes
            yield from ((CLASSES, entry) for entry in now)
            above |= {entry["handle"] for entry in now}
            classes = [entry for entry in classes if entry not in now]
        below = [entry for entry in waiting if entry["parent"] >> 16 == qdisc["handle"] >> 16]
        ready += below
        waiting = [entry for entry in waiting if entry not in below]
    yield from ((QDISCS, entry) for entry in waiting)
    yield from ((FILTERS, entry) for entry in _filters_in_order(snapshot[FILTERS]))


def _filters_in_order(filters: list[Entry]) -> list[Entry]:
    """u32 numbers the table that comes with each priority as they are made, and its links need their tables."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in filters:
        groups.setdefault((entry["parent"], entry["chain"], entry["info"]), []).append(entry)
    made = []
    for group in sorted(groups.values(), key=lambda group: _root_table(group) or 0):
        root = _root_table(group)
        tables = [entry for entry in group if _is_table(entry) and entry["handle"] != root]
        made += tables + [_in_root(entry, root) for entry in group if not _is_table(entry)]
    return made


def _is_table(entry: Entry) -> bool:
    return entry["kind"] == "u32" and not entry["handle"] & _U32_NODE


def _root_table(group: list[Entry]) -> int | None:
    """The table that u32 made by itself: the first of those that it numbered."""
    numbered = [entry["handle"] for entry in group if _is_table(entry) and entry["handle"] >= _U32_OWN_TABLES]
    return min(numbered, default=None)


def _in_root(entry: Entry, root: int | None) -> Entry:
    """An entry of the table that u32 makes by itself, whatever number it gives it; others as they are."""
    if entry["kind"] != "u32" or entry["handle"] & _U32_ROOT != root:
        return entry
    options = [
        (number, struct.pack("I", _U32_ROOT) if number == _U32_HASH else value)
        for number, value in split(bytes.fromhex(entry["options"]))
    ]
    return entry | {"handle": entry["handle"] & _U32_NODE, "options": join(options).hex()}

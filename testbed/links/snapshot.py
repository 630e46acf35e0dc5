"""The queueing of an interface as it was found, as plain data, and its restoration: qdiscs, classes and filters.

The kernel's own bytes are kept and sent back to it, whatever the kinds, but for what it tells and does not take. Qdiscs
with handle 0: are the kernel's defaults, which come back by themselves, and so are not kept. Counters begin anew.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from testbed.links import namespaces

# {"qdiscs": [entry, ...], "classes": [...], "filters": [...], "lost": [what is known not to come back, ...]}
Snapshot = dict[str, Any]
Entry = dict[str, Any]

QDISCS, CLASSES, FILTERS = "qdiscs", "classes", "filters"
DEFAULT: Snapshot = {QDISCS: [], CLASSES: [], FILTERS: [], "lost": []}
AT_ROOT, AT_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1  # parents of what hangs on the interface itself
_NEW = {QDISCS: 36, CLASSES: 40, FILTERS: 44}  # RTM_NEWQDISC, RTM_NEWTCLASS, RTM_NEWTFILTER
_GET_AFTER_NEW = 2
_WORD = {QDISCS: "qdisc", CLASSES: "class", FILTERS: "filter"}

_HEADER = struct.Struct("IHHII")  # nlmsghdr: length, type, flags, sequence, port
_TC = struct.Struct("BBHiIII")  # tcmsg: family, padding, device, handle, parent, info
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x600  # _CREATE: and not there already
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _ERROR_TEXT = 270, 10, 11, 1
_DUMP_BYTES = 1 << 17
_TYPE_MASK = 0x3FFF  # the rest of an attribute's type are flags

_KIND, _OPTIONS, _STAB, _CHAIN, _INGRESS_BLOCK, _EGRESS_BLOCK = 1, 2, 8, 11, 13, 14
_CLASSES_OF_THEIR_OWN = ("htb", "hfsc", "drr", "qfq")  # the classes of others come with their qdisc
_HTB_INIT, _HTB_VERSION = 2, 3  # it tells more of its version than it takes
_FLAGS = {"u32": 11, "flower": 22, "matchall": 3, "bpf": 9}
_FLAGS_TAKEN = 0b10011  # skip hardware, skip software, verbose; it also tells whether the hardware has it
_U32_HASH, _U32_DIVISOR, _U32_COUNTERS = 2, 4, 9
_U32_ROOT, _U32_NODE, _U32_OWN_TABLES = 0xFFF00000, 0xFFF, 0x80000000
_NETEM_JITTER = struct.Struct("20xI")


def take(namespace: str, index: int) -> Snapshot:
    """The queueing of a device of a namespace ("" is this program's own); OSError where it cannot be read."""
    with _Socket(namespace) as netlink:
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
    with _Socket(namespace) as netlink:
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
    kind = attributes[_KIND].rstrip(b"\0").decode()
    options = attributes.get(_OPTIONS)
    entry = {
        "kind": kind,
        "handle": handle,
        "parent": parent,
        "info": info if what == FILTERS else 0,
        "chain": int.from_bytes(attributes.get(_CHAIN, b""), "little"),
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
        return _join(
            (number, struct.pack("I", _HTB_VERSION) + value[4:16] + bytes(4) if number == _HTB_INIT else value)
            for number, value in _split(options)
        )
    if what != FILTERS or kind not in _FLAGS:
        return options
    kept = []
    for number, value in _split(options):
        if number == _FLAGS[kind]:
            value = struct.pack("I", int.from_bytes(value, "little") & _FLAGS_TAKEN)
        if kind != "u32" or number != _U32_COUNTERS:
            kept.append((number, value))
    return _join(kept)


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
        for number, value in _split(bytes.fromhex(entry["options"]))
    ]
    return entry | {"handle": entry["handle"] & _U32_NODE, "options": _join(options).hex()}


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of attributes in a row."""
    while len(data) >= 4:
        length, number = struct.unpack_from("HH", data)
        yield number, data[4:length]
        data = data[length + 3 & ~3 :]


def _join(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(
        struct.pack("HH", 4 + len(value), number) + value + bytes(-len(value) % 4) for number, value in attributes
    )


class _Socket:
    """Netlink in a namespace, for messages about queueing."""

    def __init__(self, namespace: str) -> None:
        self._socket = namespaces.within(namespace, _open) if namespace else _open()

    def __enter__(self) -> _Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def dump(
        self, what: str, index: int, parent: int = 0
    ) -> Iterator[tuple[str, tuple[int, int, int, int], dict[int, bytes]]]:
        """(what, (device, handle, parent, info), attributes) of everything of a device, of filters: at one parent."""
        self._send(_NEW[what] + _GET_AFTER_NEW, _REQUEST | _DUMP, _TC.pack(0, 0, 0, index, 0, parent, 0))
        while True:
            for kind, body in _messages(self._socket.recv(_DUMP_BYTES)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("i", body)[0]
                    raise OSError(number, os.strerror(number))
                _, _, _, *head = _TC.unpack_from(body)
                if head[0] == index:
                    attributes = {number & _TYPE_MASK: value for number, value in _split(body[_TC.size :])}
                    yield what, tuple(head), attributes

    def make(self, what: str, index: int, entry: Entry) -> str:
        """Make what an entry tells; the kernel's reason where it will not, else nothing."""
        attributes = [(_KIND, entry["kind"].encode() + b"\0")]
        if entry["options"] is not None:
            attributes.append((_OPTIONS, bytes.fromhex(entry["options"])))
        if entry["chain"]:
            attributes.append((_CHAIN, struct.pack("I", entry["chain"])))
        head = _TC.pack(0, 0, 0, index, entry["handle"], entry["parent"], entry["info"])
        self._send(_NEW[what], _REQUEST | _ACK | _CREATE, head + _join(attributes))
        _, body = next(_messages(self._socket.recv(_DUMP_BYTES)))
        number = -struct.unpack_from("i", body)[0]
        texts = dict(_split(body[4 + _HEADER.size :]))
        return texts.get(_ERROR_TEXT, os.strerror(number).encode()).rstrip(b"\0").decode() if number else ""

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[length + 3 & ~3 :]


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.bind((0, 0))
    with contextlib.suppress(OSError):
        for option in (_CAP_ACK, _EXT_ACK):
            opened.setsockopt(_SOL_NETLINK, option, 1)
    return opened

"""Netlink about queueing, in a namespace: everything of a device read as the kernel's bytes, and sent back to it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from testbed.links import namespaces

Entry = dict[str, Any]

QDISCS, CLASSES, FILTERS = "qdiscs", "classes", "filters"
KIND, OPTIONS, CHAIN = 1, 2, 11  # attributes
_NEW = {QDISCS: 36, CLASSES: 40, FILTERS: 44}  # RTM_NEWQDISC, RTM_NEWTCLASS, RTM_NEWTFILTER
_GET_AFTER_NEW = 2

_HEADER = struct.Struct("IHHII")  # nlmsghdr: length, type, flags, sequence, port
_TC = struct.Struct("BBHiIII")  # tcmsg: family, padding, device, handle, parent, info
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x600  # _CREATE: and not there already
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _ERROR_TEXT = 270, 10, 11, 1
_DUMP_BYTES = 1 << 17
_TYPE_MASK = 0x3FFF  # the rest of an attribute's type are flags


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of attributes in a row."""
    while len(data) >= 4:
        length, number = struct.unpack_from("HH", data)
        yield number, data[4:length]
        data = data[length + 3 & ~3 :]


def join(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """Attributes in a row."""
    return b"".join(
        struct.pack("HH", 4 + len(value), number) + value + bytes(-len(value) % 4) for number, value in attributes
    )


class TcSocket:
    """Netlink in a namespace, for messages about queueing."""

    def __init__(self, namespace: str) -> None:
        self._socket = namespaces.within(namespace, _open) if namespace else _open()

    def __enter__(self) -> TcSocket:
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
                    attributes = {number & _TYPE_MASK: value for number, value in split(body[_TC.size :])}
                    yield what, tuple(head), attributes

    def make(self, what: str, index: int, entry: Entry) -> str:
        """Make what an entry tells; the kernel's reason where it will not, else nothing."""
        attributes = [(KIND, entry["kind"].encode() + b"\0")]
        if entry["options"] is not None:
            attributes.append((OPTIONS, bytes.fromhex(entry["options"])))
        if entry["chain"]:
            attributes.append((CHAIN, struct.pack("I", entry["chain"])))
        head = _TC.pack(0, 0, 0, index, entry["handle"], entry["parent"], entry["info"])
        self._send(_NEW[what], _REQUEST | _ACK | _CREATE, head + join(attributes))
        _, body = next(_messages(self._socket.recv(_DUMP_BYTES)))
        number = -struct.unpack_from("i", body)[0]
        texts = dict(split(body[4 + _HEADER.size :]))
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

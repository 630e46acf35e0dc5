"""The rate of an HTB class changed over raw netlink: what a trace does ten times a second for each link.

pyroute2 computes tables that kernels have not read since 3.8 and takes a hundred times as long. The message is
RTM_NEWTCLASS without NLM_F_CREATE: a class that is not there is an error, not a new class.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from testbed.links import namespaces
from testbed.links.errors import LinkError
from testbed.links.operations import QUANTUM, ROOT

_NEWTCLASS, _REQUEST_ACK = 40, 0x5
_TCA_KIND, _TCA_OPTIONS, _TCA_HTB_PARMS = 1, 2, 1
_HEADER = struct.Struct("IHHII")  # nlmsghdr: length, type, flags, sequence, port
_CLASS = struct.Struct("BBHiIII")  # tcmsg: family, padding, device, handle, parent, info
_RATE_SPEC = struct.Struct("BBHhHI")  # cell_log, link layer, overhead, cell_align, mpu, bytes/s
_ETHERNET = 1
_ANSWER_BYTES = 4096


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


class FastHtb:
    """A netlink socket in a namespace ("" is this program's own)."""

    def __init__(self, namespace: str) -> None:
        self._socket = namespaces.within(namespace, _open) if namespace else _open()
        # /proc/net/psched: how many nanoseconds a tick has, as a fraction.
        numerator, denominator, resolution, _ = (int(word, 16) for word in Path("/proc/net/psched").read_text().split())
        self._ticks_per_s = numerator / denominator * resolution
        self._sequence = 0

    def change(self, index: int, minor: int, rate: int, burst: int) -> None:
        """Set rate and ceiling in bytes/s, and burst in bytes, of class `minor` of the HTB root on a device.

        Raises LinkError with the kernel's reason. What waits in the class stays.
        """
        ticks = min(0xFFFFFFFF, int(burst / rate * self._ticks_per_s))
        specification = _RATE_SPEC.pack(0, _ETHERNET, 0, -1, 0, rate)
        parameters = specification + specification + struct.pack("5I", ticks, ticks, QUANTUM, 0, 0)
        options = _attribute(_TCA_OPTIONS, _attribute(_TCA_HTB_PARMS, parameters))
        body = _CLASS.pack(0, 0, 0, index, ROOT | minor, ROOT, 0) + _attribute(_TCA_KIND, b"htb\0") + options
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _NEWTCLASS, _REQUEST_ACK, self._sequence, 0) + body)
        error: int = struct.unpack_from("i", self._socket.recv(_ANSWER_BYTES), _HEADER.size)[0]
        if error:
            raise LinkError(f"tc class change dev {index} classid 1:{minor:x}: {os.strerror(-error)}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.bind((0, 0))
    return opened

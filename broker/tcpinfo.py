"""Application bytes of a TCP connection, from the kernel's own count, at this end and, on the same host, at the other.

Which of the kernel's fields are application bytes (Linux, `struct tcp_info`, see RFC 4898 for their definitions):

* `bytes_sent` counts payload handed to the network, without SYN and FIN but with every retransmission; minus
  `bytes_retrans` it is what the application sent, each byte once. Bytes that still wait in the send buffer are not in.
* `bytes_acked` follows the sequence numbers: at the end that opened the connection it has one more for the SYN, and
  at either end one more once its FIN is acknowledged. It is kept as the kernel says it and used for nothing.
* `bytes_received` is the payload that arrived in order, whether or not the application has read it, plus one once the
  peer's FIN arrived, which the states CLOSE_WAIT, LAST_ACK, CLOSING and TIME_WAIT tell. In state CLOSE the kernel no
  longer tells whether a FIN or a reset ended the connection, so read before both ends are closed.

Hence `sent` and `received` below: exactly what the two applications exchange, and `a.sent == b.received` as soon as
nothing is in flight.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

if sys.platform == "linux":
    import fcntl
    import termios

# Offsets in struct tcp_info of linux/tcp.h, which only ever grows at its end; kernels before 4.19 give less.
_RTT, _ACKED, _RECEIVED, _SENT, _RETRANS = 68, 120, 128, 200, 208
_INFO_BYTES = 216

_FIN_RECEIVED = (6, 8, 9, 11)  # TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING of linux/tcp_states.h
_LISTEN = 10

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_INFO, _CONG = 2, 4  # attributes INET_DIAG_INFO and INET_DIAG_CONG
_REQUEST = struct.Struct("=IHHII BBBBI")  # nlmsghdr, then inet_diag_req_v2 up to its socket id
_SOCKET_ID = struct.Struct("!HH16s16s")  # source port, destination port, source, destination
_ANY = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # any interface, any cookie
_HEADER_BYTES, _DIAG_BYTES = 16, 72  # nlmsghdr, inet_diag_msg


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """One end of a TCP connection; all counts in bytes since it was opened, `rtt_us` in microseconds."""

    bytes_acked: int
    bytes_received: int
    bytes_sent: int
    bytes_retrans: int
    congestion: str
    rtt_us: int
    fin_received: bool

    @property
    def sent(self) -> int:
        """Application bytes handed to the network, each once."""
        return self.bytes_sent - self.bytes_retrans

    @property
    def received(self) -> int:
        """Application bytes that arrived in order."""
        return self.bytes_received - self.fin_received


Traffic = tuple[int, int, int | None, int | None]


def traffic(sock: socket.socket) -> Traffic:
    """Application bytes sent and received by this end's count, and the same two by the other's, None where unknown."""
    own, peer = read(sock), read_peer(sock)
    sent, received = (own.sent, own.received) if own else (0, 0)
    # What the other end received is what this one sent.
    return (sent, received, peer.received, peer.sent) if peer else (sent, received, None, None)


class Summed(NamedTuple):
    """The traffic of several connections; a count is None where one of them does not tell."""

    connections: int = 0
    counts: Traffic = (0, 0, 0, 0)

    def plus(self, traffic: Traffic) -> Summed:
        """With one connection more."""
        sent, received, *peer = self.counts
        peer_sent, peer_received = (
            None if a is None or b is None else a + b for a, b in zip(peer, traffic[2:], strict=True)
        )
        return Summed(self.connections + 1, (sent + traffic[0], received + traffic[1], peer_sent, peer_received))

    def named(self) -> dict[str, int | None]:
        """The counts by name."""
        keys = ("sent_bytes", "received_bytes", "peer_sent_bytes", "peer_received_bytes")
        return {"connections": self.connections, **dict(zip(keys, self.counts, strict=True))}


def read(sock: socket.socket) -> TcpInfo | None:
    """This end of a connected TCP socket; None where the kernel does not tell."""
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        congestion = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    except OSError:
        return None
    return _decode(info, congestion)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that the kernel was given and that the other end's has not acknowledged; 0 where it does not tell."""
    if sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0


def read_peer(sock: socket.socket) -> TcpInfo | None:
    """The other end of a connected TCP socket; None unless it is in this network namespace, whoever owns it.

    Asks the kernel's socket diagnosis (NETLINK_SOCK_DIAG) for the connection with the addresses exchanged; that needs
    no privilege.
    """
    if sys.platform != "linux":
        return None
    try:
        key = _peer_key(sock)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as diagnosis:
            diagnosis.setblocking(False)  # the kernel answers within `sendto`, or not at all
            diagnosis.sendto(_request(*key), (0, 0))
            answer = diagnosis.recv(65536)
    except (OSError, ValueError):
        return None
    return _answer(answer, key[1])


def _peer_key(sock: socket.socket) -> tuple[int, bytes]:
    """Address family and socket id of the other end, whose source is our destination."""
    (local, local_port), (remote, remote_port) = _address(sock.getsockname()), _address(sock.getpeername())
    family = socket.AF_INET if len(local) == 4 else socket.AF_INET6
    return family, _SOCKET_ID.pack(remote_port, local_port, remote, local)


def _address(name: Any) -> tuple[bytes, int]:
    address: Any = ipaddress.ip_address(name[0].partition("%")[0])
    # A dual-stack socket shows IPv4 peers as mapped addresses, but the kernel finds the connection under IPv4.
    address = getattr(address, "ipv4_mapped", None) or address
    return address.packed, name[1]


def _request(family: int, socket_id: bytes) -> bytes:
    size = _REQUEST.size + len(socket_id) + len(_ANY)
    extensions = 1 << (_INFO - 1) | 1 << (_CONG - 1)
    head = _REQUEST.pack(
        size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0, family, socket.IPPROTO_TCP, extensions, 0, 0xFFFFFFFF
    )
    return head + socket_id + _ANY


def _answer(answer: bytes, socket_id: bytes) -> TcpInfo | None:
    if len(answer) < _HEADER_BYTES + _DIAG_BYTES:
        return None
    (kind,) = struct.unpack_from("=H", answer, 4)
    state = answer[_HEADER_BYTES + 1]
    found = answer[_HEADER_BYTES + 4 :][: len(socket_id)]
    if kind != _SOCK_DIAG_BY_FAMILY or state == _LISTEN or found[:4] != socket_id[:4]:
        return None
    attributes = dict(_attributes(answer[_HEADER_BYTES + _DIAG_BYTES :]))
    return _decode(attributes.get(_INFO, b""), attributes.get(_CONG, b""))


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            break
        found.append((kind, data[4:size]))
        data = data[(size + 3) & ~3 :]
    return found


def _decode(info: bytes, congestion: bytes) -> TcpInfo | None:
    if len(info) < _INFO_BYTES:
        return None
    acked, received, sent, retrans = (
        struct.unpack_from("=Q", info, offset)[0] for offset in (_ACKED, _RECEIVED, _SENT, _RETRANS)
    )
    return TcpInfo(
        bytes_acked=acked,
        bytes_received=received,
        bytes_sent=sent,
        bytes_retrans=retrans,
        congestion=congestion.partition(b"\0")[0].decode("ascii", "replace"),
        rtt_us=struct.unpack_from("=I", info, _RTT)[0],
        fin_received=info[0] in _FIN_RECEIVED,
    )

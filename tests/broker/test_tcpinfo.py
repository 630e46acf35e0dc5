"""The kernel's byte counts against what was really sent over real sockets."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from broker import tcpinfo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["ipv4", "ipv6", "dual-stack"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """(the end that opened, the end that accepted)."""
    family = socket.AF_INET if request.param == "ipv4" else socket.AF_INET6
    try:
        listener = socket.socket(family)
        if request.param == "dual-stack":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("127.0.0.1" if request.param == "ipv4" else "::", 0))
    except OSError as error:
        pytest.skip(f"no {request.param} here: {error}")
    with listener:
        listener.listen()
        host = "::1" if request.param == "ipv6" else "127.0.0.1"
        with socket.create_connection((host, listener.getsockname()[1]), timeout=5) as opened:
            accepted, _ = listener.accept()
            with accepted:
                yield opened, accepted


def exchange(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    while size:
        sent = sender.send(bytes(min(10_000, size)))
        size -= sent
        while sent:
            sent -= len(receiver.recv(sent))


def ends(sock: socket.socket) -> tuple[tcpinfo.TcpInfo, tcpinfo.TcpInfo]:
    own, peer = tcpinfo.read(sock), tcpinfo.read_peer(sock)
    assert own is not None
    if peer is None:
        pytest.skip("this kernel has no inet_diag")
    return own, peer


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 0), (0, 1), (777, 123_457)])
def test_sent_and_received_are_the_application_bytes_at_both_ends(pair: Pair, up: int, down: int) -> None:
    opened, accepted = pair
    exchange(opened, accepted, up)
    exchange(accepted, opened, down)
    for sock, sent, received in ((opened, up, down), (accepted, down, up)):
        own, peer = ends(sock)
        assert (own.sent, own.received) == (sent, received)
        assert (peer.sent, peer.received) == (received, sent)


def test_what_the_kernel_adds_for_syn_and_fin_is_known(pair: Pair) -> None:
    opened, accepted = pair
    exchange(opened, accepted, 100)
    exchange(accepted, opened, 50)
    assert ends(opened)[0].bytes_acked == 100 + 1
    opened.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    exchange(accepted, opened, 10)  # carries the acknowledgement of the FIN, which would be delayed otherwise
    own, peer = ends(opened)
    assert (own.sent, own.received, own.fin_received) == (100, 60, False)
    assert (peer.sent, peer.received, peer.fin_received) == (60, 100, True)
    assert own.bytes_acked == 100 + 2
    assert peer.bytes_received == 100 + 1


def test_unread_bytes_count_as_received(pair: Pair) -> None:
    opened, accepted = pair
    opened.sendall(bytes(500))
    accepted.recv(1)
    assert ends(accepted)[0].received == 500


def test_the_congestion_control_and_round_trip_time_are_told(pair: Pair) -> None:
    opened, accepted = pair
    exchange(opened, accepted, 10)
    for info in ends(opened):
        assert info.congestion.isascii()
        assert info.congestion
        assert info.rtt_us > 0


def test_a_peer_that_is_gone_or_elsewhere_is_none(pair: Pair) -> None:
    opened, accepted = pair
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    accepted.close()
    assert tcpinfo.read_peer(opened) is None


def test_a_socket_that_is_not_connected_or_not_tcp_is_none() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as fresh:
        assert tcpinfo.read(udp) is None
        assert tcpinfo.read_peer(fresh) is None


def test_what_the_other_end_has_not_acknowledged_is_told(pair: Pair) -> None:
    opened, accepted = pair
    assert tcpinfo.unacknowledged(opened) == 0
    opened.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += opened.send(bytes(1 << 16))
    assert 0 < tcpinfo.unacknowledged(opened) < sent
    while sent:
        sent -= len(accepted.recv(1 << 20))
    while tcpinfo.unacknowledged(opened):
        pass
    opened.close()
    assert tcpinfo.unacknowledged(opened) == 0


def test_a_kernel_that_does_not_answer_is_not_waited_for(pair: Pair) -> None:
    nothing = (16).to_bytes(4, "little") + bytes(12)  # a message that is answered by none
    began = time.monotonic()
    with mock.patch.object(tcpinfo, "_request", return_value=nothing):
        assert tcpinfo.read_peer(pair[0]) is None
    assert time.monotonic() - began < 0.5


def test_traffic_is_summed_and_unknown_where_a_part_is() -> None:
    parts: list[tcpinfo.Traffic] = [(1, 2, 3, None), (10, 20, 30, 40)]
    names = ("connections", "sent_bytes", "received_bytes", "peer_sent_bytes", "peer_received_bytes")
    total = tcpinfo.Summed()
    assert total.named() == dict.fromkeys(names, 0)
    for part in parts:
        total = total.plus(part)
    assert total.named() == dict(zip(names, (2, 11, 22, 33, None), strict=True))

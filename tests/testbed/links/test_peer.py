"""What a measuring end believes of what the other one says, and what it takes of what comes."""

from __future__ import annotations

import socket
import struct
import tracemalloc
from collections.abc import Iterator

import pytest

from testbed.links.errors import LinkError
from testbed.links.peer import DATAGRAMS_MAX, LINE_BYTES_MAX, Collector, Peer, number, numbers, pace, whole


@pytest.fixture
def ends() -> Iterator[tuple[Peer, Peer]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield Peer(near), Peer(far)


@pytest.mark.parametrize("value", [0, -1, 101, 1.0, "7", None, [7], 1 << 80])
def test_a_whole_number_has_its_bounds(value: object) -> None:
    assert whole({"count": 100}, "count", 100) == 100
    with pytest.raises(LinkError, match=r"^the other end said count .*; valid: 1 to 100$"):
        whole({"count": value}, "count", 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, {}, 1 << 2000], ids=range(6))
def test_a_number_is_one_and_finite(value: object) -> None:
    assert number({"gap": 2}, "gap", 0, 2) == 2
    with pytest.raises(LinkError, match=r"^the other end said gap .*; valid: -1e\+12 to 1e\+12$"):
        number({"gap": value}, "gap")
    with pytest.raises(LinkError, match=r"^the other end said up "):
        numbers({"up": [0.0, value]}, "up", 2)


@pytest.mark.parametrize("values", [None, "12", [1.0], [1.0, 2.0, 3.0], {"0": 1}])
def test_numbers_are_as_many_as_were_asked_for(values: object) -> None:
    assert numbers({"up": [1, 2.5]}, "up", 2) == [1.0, 2.5]
    with pytest.raises(LinkError, match="valid: 2 numbers"):
        numbers({"up": values}, "up", 2)


@pytest.mark.parametrize(
    "line", [b"[1]\n", b"hello\n", b"\xff\n", b'{"a": \n', b"[" * (LINE_BYTES_MAX - 1) + b"\n", b"7" * 9000 + b"\n"]
)
def test_a_line_is_a_json_object(ends: tuple[Peer, Peer], line: bytes) -> None:
    near, far = ends
    near.sock.sendall(line + b'{"do": "up"}\n')
    with pytest.raises(LinkError, match=r"the other end said .*; valid: a JSON object"):
        far.hear()
    assert far.hear() == {"do": "up"}


def test_a_line_has_an_end(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    near.sock.sendall(b" " * LINE_BYTES_MAX + b"{}\n")
    with pytest.raises(LinkError, match=f"more than {LINE_BYTES_MAX} bytes in a line"):
        far.hear()


def test_the_end_of_a_connection_is_told(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    near.sock.sendall(b'{"do":')
    near.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        far.hear()
    with pytest.raises(EOFError):
        far.exactly(8)


def test_datagrams_of_the_peer_are_counted_once_each(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    with Collector(far, 50, 100) as collector:
        for _ in range(2):
            pace(near.own_host, (far.own_host, collector.port), 50, 1e-7, 100)
    answer = collector.answer()
    assert answer["received"] == 50
    assert 0 < answer["first"] <= answer["last"]


def test_datagrams_that_are_not_the_peers_are_not_counted(ends: tuple[Peer, Peer]) -> None:
    _, far = ends
    with Collector(far, 50, 100) as collector:
        to = (far.own_host, collector.port)
        pace("127.0.0.2", to, 50, 1e-7, 100)  # another host
        pace("127.0.0.1", to, 50, 1e-7, 99)  # another size
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            for which in (50, 0xFFFFFFFF):  # numbers that were not sent
                sock.sendto(struct.pack("!I", which) + bytes(96), to)
            sock.sendto(struct.pack("!I", 49) + bytes(96), to)
    assert collector.answer()["received"] == 1


def test_the_memory_for_datagrams_is_bounded(ends: tuple[Peer, Peer]) -> None:
    tracemalloc.start()
    try:
        with Collector(ends[1], DATAGRAMS_MAX, 100) as collector:
            assert collector.answer()["received"] == 0
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()

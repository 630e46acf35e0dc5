"""Congestion controls as connections have them."""

from __future__ import annotations

import asyncio
import shutil
import socket

import pytest

from broker.congestion import in_use, system_default
from testbed.links.sockets import congestion_in_use, parse

SAID = """\
0      0      127.0.0.1:5001  127.0.0.1:40000 users:(("python",pid=1,fd=3))
\t ts sack cubic wscale:7,7 rto:204 rtt:0.1/0.05 mss:32768 cwnd:10
0      0      127.0.0.1:5002  127.0.0.1:40002
\t bbr wscale:7,7 rto:204
0      0      127.0.0.1:5003  127.0.0.1:40003
\t ts sack ecn ecnseen cubic wscale:7,7
"""


def test_the_name_is_the_first_word_that_is_no_option() -> None:
    assert parse(SAID) == {"cubic": 2, "bbr": 1}


@pytest.mark.skipif(shutil.which("ss") is None, reason="ss (iproute2) is not installed")
def test_connections_of_this_machine_are_counted() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0],
    ):
        found = asyncio.run(congestion_in_use(()))
        assert found[in_use(client)] >= 2
        assert in_use(client) == system_default()


def test_a_place_that_is_not_there_has_none() -> None:
    assert not asyncio.run(congestion_in_use(("no-such-program-at-all",)))

"""A device that joined a measurement: what it does for whoever measures it, and what not."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from testbed.links.errors import LinkError
from testbed.links.joining import join
from testbed.links.peer import BYTES_MAX, DATAGRAMS_MAX, MESSAGES_MAX


def asked(*lines: dict[str, Any] | bytes) -> int:
    """What `join` returns or raises where the other end says these lines, takes what it gets and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for line in lines:
                    connection.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return join(*server.getsockname())
        finally:
            thread.join()


def test_jobs_are_done_until_the_connection_ends() -> None:
    assert asked({"do": "up", "bytes": 100_000}, {"do": "down", "bytes": 3}, b"abc") == 2
    assert asked() == 0


DATAGRAMS = {"count": 10, "gap": 0.001, "size": 100, "port": 9}


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"do": "run", "command": "true"}, "asks for 'run'; valid: up, down, delay, datagrams_up, datagrams_down"),
        ({}, "asks for None"),
        ({"do": ["up"]}, "asks for ['up']"),
        ({"do": "up"}, f"said bytes None; valid: 1 to {BYTES_MAX}"),
        ({"do": "up", "bytes": BYTES_MAX + 1}, "said bytes"),
        ({"do": "down", "bytes": 1 << 70}, "said bytes"),
        ({"do": "down", "bytes": -1}, "said bytes -1"),
        ({"do": "delay", "count": MESSAGES_MAX + 1}, "said count"),
        ({"do": "datagrams_down"} | DATAGRAMS | {"count": DATAGRAMS_MAX + 1}, "said count"),
        ({"do": "datagrams_down"} | DATAGRAMS | {"size": 7}, "said size 7; valid: 8 to 1472"),
        ({"do": "datagrams_up"} | DATAGRAMS | {"size": 65507}, "said size"),
        ({"do": "datagrams_up"} | DATAGRAMS | {"gap": 0}, "said gap 0; valid: 1e-07 to 3600"),
        ({"do": "datagrams_up"} | DATAGRAMS | {"gap": 1e9}, "said gap"),
        ({"do": "datagrams_up"} | DATAGRAMS | {"port": 65536}, "said port 65536; valid: 1 to 65535"),
        (b"nonsense\n", "valid: a JSON object"),
    ],
)
def test_what_is_beyond_a_measurement_is_not_done(job: dict[str, Any] | bytes, said: str) -> None:
    with pytest.raises(LinkError) as raised:
        asked(job)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 200


def test_a_refusal_is_told_without_what_a_terminal_would_obey() -> None:
    with pytest.raises(LinkError, match=r"^the other end refuses: no\[31m, not you$"):
        asked({"error": "no\x1b[31m,\n not you"})
    with pytest.raises(LinkError) as raised:
        asked({"error": "x" * 60_000})
    assert len(str(raised.value)) < 400


def test_where_nobody_listens_it_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(LinkError, match=rf"^127\.0\.0\.1:{port}: Connection refused; valid: what `splitcom link"):
        join("127.0.0.1", port)
    with pytest.raises(LinkError, match=rf"^from 192\.0\.2\.7 to 127\.0\.0\.1:{port}: Cannot assign requested address"):
        join("127.0.0.1", port, own="192.0.2.7")


def test_it_loads_nothing_but_the_standard_library() -> None:
    code = """
import sys
before = set(sys.modules)
import testbed.links.transfer
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
assert loaded == {"testbed", "broker"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)

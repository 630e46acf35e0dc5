"""A test per normative statement: how tests name theirs, and what a test is given."""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.conformance.client import Carrier, Client, connection
from tests.conformance.wire import V5, V311

VERSIONS = {"3.1.1": V311, "5": V5}
TESTS: dict[str, Callable[[Subject], None]] = {}
"""The test of each statement, by its id such as `5:MQTT-3.1.2-22`."""
KINDS: dict[str, str] = {}
"""The kind of broker that it needs, by the same ids."""

_names = itertools.count(1)


def statement(*ids: str, kind: str = "plain") -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """The decorated test checks these statements, each in the MQTT version that its id begins with.

    `kind` is the broker that it needs: `plain`, one that is `guarded`, or one that is reached by `websocket`.
    """

    def mark(test: Callable[[Subject], None]) -> Callable[[Subject], None]:
        for name in ids:
            assert name not in TESTS, f"{name} has two tests"
            TESTS[name], KINDS[name] = test, kind
        marked: Callable[[Subject], None] = pytest.mark.parametrize("broker", ids, indirect=True)(test)
        return marked

    return mark


def load() -> None:
    """Fill TESTS from all test modules."""
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.conformance.{path.stem}")


class Subject:
    """A broker under test and the clients of one test; client ids and topics are new to the broker in every test."""

    def __init__(self, address: tuple[str, int], statement: str, patience: float) -> None:
        self.version = VERSIONS[statement.partition(":")[0]]
        self.patience = patience
        self.topic = f"t{next(_names)}"
        self.address = address
        self._clients = contextlib.ExitStack()

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clients.close()

    def id(self, name: str) -> str:
        """A client id for this test only."""
        return f"{self.topic}{name}"

    def open(self, carrier: Carrier | None = None) -> Client:
        """A client on which nothing has been sent, on a TCP connection of its own or on the carrier."""
        client = Client(carrier or connection(self.address, self.patience), self.version, self.patience)
        self._clients.callback(client.close)
        return client

    def client(self, name: str, **fields: Any) -> Client:
        """A client whose CONNECT was accepted; `fields` as in Client.connect."""
        client = self.open()
        connack = client.connect(self.id(name), **fields)
        assert connack.reason == 0, f"CONNACK 0x{connack.reason:02X}"
        return client

    @property
    def v5(self) -> bool:
        return self.version == V5

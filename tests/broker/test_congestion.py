"""TCP's congestion control by name."""

from __future__ import annotations

import socket
import sys

import pytest

from broker import congestion
from broker.congestion import in_use, resolve, set_congestion, system_default
from broker.errors import SettingsError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a choice of congestion controls")


@pytest.fixture(autouse=True)
def _not_remembered() -> None:
    resolve.cache_clear()


def test_a_name_stays_what_it_is() -> None:
    assert resolve("reno") == "reno"
    assert resolve("") == ""


def test_auto_is_what_a_socket_then_takes() -> None:
    with socket.socket() as sock:
        set_congestion(sock, resolve("auto"))
        assert in_use(sock) == resolve("auto")


def test_auto_is_the_systems_own_where_cubic_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket, name: str) -> None:
        raise SettingsError(f"congestion: {name!r}: Operation not permitted")

    monkeypatch.setattr(congestion, "set_congestion", refuse)
    assert resolve("auto") == system_default()


def test_one_that_there_is_not_is_named_with_what_is_valid() -> None:
    with socket.socket() as sock, pytest.raises(SettingsError, match=r"congestion: 'nonsense'.*valid: .*reno"):
        set_congestion(sock, "nonsense")

"""Which version of MQTT is tried, and what a failure says about the broker."""

from __future__ import annotations

from broker.login import RefusedError
from broker.versions import Versions

CLOSED = RefusedError("it closed the connection", older=True, closed=True)
BROKEN = RefusedError("it closed the connection", closed=True)
TOO_NEW = RefusedError("unsupported version", older=True)
PERHAPS = "it closed the connection, perhaps because it speaks no MQTT 5"


def test_an_older_version_stays_where_the_broker_asked_for_it() -> None:
    versions = Versions("auto")
    assert versions.attempt() == ["5", "3.1.1"]
    assert versions.refused("5", TOO_NEW)
    assert not versions.refused("3.1.1", TOO_NEW)
    assert versions.attempt() == ["3.1.1"]


def test_a_connection_that_was_only_closed_decides_for_one_attempt() -> None:
    versions = Versions("auto")
    assert versions.refused("5", CLOSED)
    versions.worked("3.1.1")
    assert versions.attempt() == ["5", "3.1.1"]
    assert not versions.refused("5", BROKEN)
    versions.worked("5")
    assert versions.attempt() == ["5"]
    assert not versions.refused("5", CLOSED)


def test_a_broker_is_suspected_of_an_old_version_only_until_mqtt_5_has_worked() -> None:
    versions = Versions("5")
    assert str(versions.explained("5", CLOSED)) == PERHAPS
    assert versions.explained("5", TOO_NEW) is TOO_NEW
    assert versions.explained("3.1.1", CLOSED) is CLOSED
    versions.worked("5")
    assert versions.explained("5", CLOSED) is CLOSED

"""The broker in a thread of its own."""

from __future__ import annotations

import threading

import paho.mqtt.client as paho
import pytest

from broker.broker_config import BrokerConfig
from broker.errors import ConnectError
from broker.server import Broker
from broker.thread import BrokerThread
from tests.broker.raw import PATIENCE_S


def test_a_program_without_a_loop_can_serve_and_stop() -> None:
    running = BrokerThread(BrokerConfig(port=0))
    with running as (host, port):
        got = threading.Event()
        mqtt = paho.Client(paho.CallbackAPIVersion.VERSION2, "c")
        mqtt.on_connect = lambda *_: mqtt.subscribe("t", 1)
        mqtt.on_subscribe = lambda *_: mqtt.publish("t", b"x", qos=1)
        mqtt.on_message = lambda *_: got.set()
        mqtt.connect(host, port)
        mqtt.loop_start()
        assert got.wait(PATIENCE_S)
        assert running.ask(Broker.snapshot)["open_connections"] == 1
        mqtt.disconnect()
        mqtt.loop_stop()
    assert not running._thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        mqtt.connect(host, port)


def test_an_address_that_cannot_be_used_is_told_on_entering() -> None:
    with (
        BrokerThread(BrokerConfig(port=0)) as (_, port),
        pytest.raises(ConnectError, match=f"127.0.0.1:{port}: Address already in use"),
        BrokerThread(BrokerConfig(port=port)),
    ):
        pass

"""One MQTT connection of a client: paho's protocol engine on the asyncio loop, without a thread of its own.

paho is driven directly (`loop_read`, `loop_write` and `loop_misc` from the loop's own readiness callbacks) because the
channel needs what aiomqtt 2 hides: acknowledgements given by hand, so that a full inbox holds the broker back; the
broker's acknowledgement of every single chunk as a future; and what had not been acknowledged when a connection broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker import tcpinfo
from broker.congestion import set_congestion
from broker.errors import BrokerError, ConnectError

PROTOCOLS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
RECEIVE_MAXIMUM = 64  # unacknowledged messages that an MQTT 5 broker may send us
MISC_S = 0.5  # how often the keepalive is looked at

_UNSUPPORTED_VERSION = 0x84
_TAKEN_OVER = 0x8E

Traffic = tuple[int, int, int | None, int | None]
OnChunk = Callable[[str, bytes, Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Login:
    """Whom to connect to, as whom, and the longest time that each step of it may take."""

    host: str
    port: int
    client_id: str
    keepalive_s: int
    timeout_s: float
    username: str | None
    password: str | None
    congestion: str = ""


class RefusedError(ConnectError):
    """The broker answered, but not with a connection; `older` tells that an older MQTT version may be worth a try."""

    def __init__(self, reason: str, older: bool = False) -> None:
        super().__init__(reason)
        self.older = older


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a connection ended; `final` when coming back would only push out the client that took our name."""

    reason: str
    final: bool = False


class _Client(Client):
    """paho's client on a socket that is connected already, since its own way to connect blocks."""

    given: socket.socket | None = None

    def _create_socket_connection(self) -> socket.socket:
        if self.given is None:
            return super()._create_socket_connection()
        return self.given


class MqttConnection:
    """Open once, use, close once; `closed` gives the `Loss` when it ends for whatever reason.

    `will` (topic, payload) is published by the broker, retained, when the connection ends without `close`.
    """

    def __init__(self, login: Login, protocol: str, will: tuple[str, bytes], on_chunk: OnChunk) -> None:
        self._login = login
        self._on_chunk = on_chunk
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Loss] = self._loop.create_future()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._acknowledged: dict[int, asyncio.Future[None]] = {}
        self._waiting: deque[tuple[str, bytes, bool, asyncio.Future[None]]] = deque()
        self._in_flight_limit = 65535
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_traffic: Traffic = (0, 0, None, None)
        self._version = PROTOCOLS[protocol]
        self._client = self._make_client(will)

    def _make_client(self, will: tuple[str, bytes]) -> _Client:
        login, newest = self._login, self._version == MQTTProtocolVersion.MQTTv5
        client = _Client(
            CallbackAPIVersion.VERSION2,
            login.client_id,
            clean_session=None if newest else True,
            protocol=self._version,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(0)  # the channel's window and the broker's receive maximum bound it here
        client.will_set(will[0], will[1], qos=1, retain=True)
        if login.username is not None:
            client.username_pw_set(login.username, login.password)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_close = self._on_socket_close
        return client

    async def open(self) -> None:
        """Connect; OSError where there is no listener, RefusedError where there is no MQTT for us, TimeoutError."""
        async with asyncio.timeout(self._login.timeout_s):
            self._client.given = await dial(self._login.host, self._login.port, self._login.congestion)
            options: dict[str, Any] = {}
            if self._version == MQTTProtocolVersion.MQTTv5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.ReceiveMaximum = RECEIVE_MAXIMUM
                options = {"clean_start": True, "properties": properties}
            try:
                self._client.connect(self._login.host, self._login.port, self._login.keepalive_s, **options)
                self._loop.add_reader(self._client.given, self._on_readable)
                self._timer = self._loop.call_later(MISC_S, self._on_timer)
                self._flush()
                await self._connected
            except BaseException:
                self.abort()
                raise

    async def subscribe(self, filters: Iterable[str]) -> None:
        """Subscribe with QoS 1; RefusedError names the filter that the broker does not allow."""
        for name in filters:
            if self._version == MQTTProtocolVersion.MQTTv5:
                _, mid = self._client.subscribe(name, options=SubscribeOptions(qos=1, noLocal=True))
            else:
                _, mid = self._client.subscribe(name, qos=1)
            if mid is None:
                raise RefusedError("the connection was closed")
            future = self._subscribed[mid] = self._loop.create_future()
            self._flush()
            try:
                async with asyncio.timeout(self._login.timeout_s):
                    await future
            except RefusedError as error:
                raise RefusedError(f"no subscription to {name}: {error}") from None

    def publish(self, topic: str, payload: bytes, retain: bool, done: asyncio.Future[None]) -> None:
        """Publish with QoS 1; `done` is set by the PUBACK, never when the connection ends before."""
        self._waiting.append((topic, payload, retain, done))
        self._flush()

    def publish_once(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 0, which nobody acknowledges."""
        self._client.publish(topic, payload, qos=0)
        self._flush()

    async def close(self) -> None:
        """Take leave with a DISCONNECT, so that the will is not published."""
        self._client.disconnect()
        self._flush()
        try:
            async with asyncio.timeout(1):
                await asyncio.shield(self.closed)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Cut the connection without a word, so that the will is published."""
        if (sock := self._socket) is not None:
            with contextlib.suppress(OSError):  # it may be not connected any more
                sock.shutdown(socket.SHUT_RDWR)
            while self._socket is not None:
                self._drive(self._client.loop_read)

    def traffic(self) -> Traffic:
        """Application bytes sent and received, by our kernel's count, and the same two by the other end's."""
        sock = self._socket
        return self._last_traffic if sock is None else _measure(sock)

    @property
    def _socket(self) -> socket.socket | None:
        return cast(socket.socket | None, self._client.socket())

    # The loop calls paho.

    def _on_readable(self) -> None:
        self._drive(self._client.loop_read)

    def _on_writable(self) -> None:
        self._drive(self._client.loop_write)

    def _on_timer(self) -> None:
        self._drive(self._client.loop_misc)
        if self._socket is not None:
            self._timer = self._loop.call_later(MISC_S, self._on_timer)

    def _drive(self, step: Callable[[], object]) -> None:
        # paho must not be made to write from inside its own callbacks: it holds a lock there that it would wait for.
        self._busy = True
        try:
            step()
        finally:
            self._busy = False
        self._flush()

    def _flush(self) -> None:
        """Write what can be written now, and watch for room for the rest."""
        if self._busy:
            return
        while self._waiting and len(self._acknowledged) < self._in_flight_limit and self._connected.done():
            topic, payload, retain, done = self._waiting.popleft()
            if not done.done():
                self._acknowledged[self._client.publish(topic, payload, qos=1, retain=retain).mid] = done
        if self._client.want_write():
            self._client.loop_write()
        if (sock := self._socket) is not None:
            if self._client.want_write():
                self._loop.add_writer(sock, self._on_writable)
            else:
                self._loop.remove_writer(sock)

    # paho calls us, in the loop's thread.

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        if self._connected.done():
            return
        if reason.is_failure:
            older = reason.value == _UNSUPPORTED_VERSION
            self._connected.set_exception(RefusedError(str(reason).lower(), older))
        else:
            self._in_flight_limit = getattr(properties, "ReceiveMaximum", 65535)
            self._connected.set_result(None)

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, reason: ReasonCode, _properties: Any) -> None:
        told = flags.is_disconnect_packet_from_server
        text = f"the broker ended it: {str(reason).lower()}" if told else "the connection broke"
        if not self._connected.done():
            # A broker that knows no MQTT 5 may also just hang up.
            self._connected.set_exception(RefusedError("it closed the connection", older=True))
        for future in self._subscribed.values():
            if not future.done():
                future.set_exception(RefusedError(text))
        if not self.closed.done():
            self.closed.set_result(Loss(text, final=told and reason.value == _TAKEN_OVER))

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Any) -> None:
        future = self._subscribed.pop(mid, None)
        if future is None or future.done():
            return
        if any(reason.is_failure for reason in reasons):
            future.set_exception(RefusedError(str(reasons[0]).lower()))
        else:
            future.set_result(None)

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        done = self._acknowledged.pop(mid, None)
        if done is None or done.done():
            return
        if reason.is_failure:
            done.set_exception(BrokerError(f"the broker refused a message: {str(reason).lower()}"))
        else:
            done.set_result(None)

    def _on_message(self, _client: Any, _data: Any, message: MQTTMessage) -> None:
        acknowledge = functools.partial(self._acknowledge, message.mid, message.qos)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            acknowledge()
        else:
            self._on_chunk(topic, bytes(message.payload), acknowledge)

    def _acknowledge(self, mid: int, qos: int) -> None:
        if qos and self._socket is not None:
            self._client.ack(mid, qos)
            self._flush()

    def _on_socket_close(self, _client: Any, _data: Any, sock: Any) -> None:
        self._last_traffic = _measure(sock)
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        if self._timer is not None:
            self._timer.cancel()


async def dial(host: str, port: int, congestion: str = "") -> socket.socket:
    """A connected non-blocking TCP socket without Nagle's delay; OSError of the last address that was tried.

    Raises SettingsError for a congestion control that cannot be had.
    """
    loop = asyncio.get_running_loop()
    failure = OSError("no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_congestion(sock, congestion)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


def why(error: BaseException) -> str:
    """One phrase for a failure to connect."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
    return str(error)


def _measure(sock: socket.socket) -> Traffic:
    own, peer = tcpinfo.read(sock), tcpinfo.read_peer(sock)
    sent, received = (own.sent, own.received) if own else (0, 0)
    # The other end's view of the same two directions: what it received is what we sent.
    return (sent, received, peer.received, peer.sent) if peer else (sent, received, None, None)

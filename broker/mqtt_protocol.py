"""What a client does with the packets of one connection, on the codec that the embedded broker uses.

There is no task and no thread: packets are handled where they arrive, and what has to be sent is written by one call
at the end of the loop's turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Collection

from broker import tcpinfo
from broker.aliases import InboundAliases
from broker.counters import ConnectionCount
from broker.dial import why
from broker.errors import ProtocolError
from broker.framer import SCRATCH_BYTES, Framer
from broker.login import (
    MAX_PACKET_BYTES,
    PROTOCOLS,
    TOPIC_ALIAS_MAXIMUM,
    Login,
    Loss,
    RefusedError,
    Terms,
    connect,
    reason,
    terms,
)
from broker.outbox import Outbox
from broker.packet_decoder import decode
from broker.packet_encoder import encode
from broker.packets import V5, V311, Connack, Disconnect, Packet, Pingreq, Pingresp, Puback, Publish, Suback, Will
from broker.ping import Ping
from broker.properties import PacketType, Property
from broker.publisher import Publisher
from broker.reasons import Reason

SLICE_BYTES = 1 << 14  # the transport gets no more at once: what it holds cannot be overtaken any more

BROKE = Loss("the connection broke")
HUNG_UP = Loss("the broker closed the connection", hung_up=True)

OnChunk = Callable[[str, memoryview, Callable[[], None] | None], None]


class MqttProtocol(asyncio.BufferedProtocol):
    """The protocol of one connection; `closed` gives the `Loss` when it ends for whatever reason.

    `will` (topic, payload) is published by the broker, retained, when the connection ends without a DISCONNECT.
    `on_chunk` gets the topic, the payload and what acknowledges it (None for QoS 0), in the order of arrival.
    """

    _transport: asyncio.Transport | None = None
    _socket: socket.socket | None = None
    _outbox: Outbox
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, login: Login, protocol: str, will: tuple[str, bytes], on_chunk: OnChunk) -> None:
        self._login = login
        self._version = PROTOCOLS[protocol]
        self._will = Will(*will, qos=1, retain=True)
        self._on_chunk = on_chunk
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Loss] = self._loop.create_future()
        self._connected: asyncio.Future[Terms] = self._loop.create_future()
        self._subscribed: dict[int, asyncio.Future[Suback]] = {}
        self._publisher = Publisher(self._version, self._subscribed)
        self._framer = Framer(memoryview(bytearray(SCRATCH_BYTES)), MAX_PACKET_BYTES)
        self._aliases = InboundAliases(TOPIC_ALIAS_MAXIMUM)
        self._ping = Ping()
        self._loss = BROKE
        self._traffic: tcpinfo.Traffic = (0, 0, None, None)
        self._count = ConnectionCount()
        self._queued = 0  # bytes of all packets so far, those that wait in the outbox included
        self._awake = self._leaving = self._ended = False

    def abort(self) -> None:
        """Cut the connection without a word, so that the will is published."""
        if self._socket is None or self.closed.done():
            return
        with contextlib.suppress(OSError):  # it may be not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._transport is None:
            self.connection_lost(None)
        else:
            self._transport.abort()

    def sent_bytes(self) -> int:
        """Bytes that the other end's kernel has; where ours does not tell, those that have left this process."""
        waiting = 0 if self._socket is None else tcpinfo.unacknowledged(self._socket)
        return max(0, self._outbox.passed_on - waiting)

    def sent_of(self, messages: Collection[asyncio.Future[None]]) -> int:
        """How many of those bytes are of these messages, known by their futures, as long as they have no PUBACK."""
        return self._publisher.passed(self.sent_bytes(), messages)

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._outbox = Outbox(transport, self._count, SLICE_BYTES)
        # For TLS, 0 would be full when it is empty; and with the end of its handshake waiting it is full at once.
        transport.set_write_buffer_limits(high=1)
        self._send(connect(self._login, self._version, self._will))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._framer.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._count.bytes_in += nbytes
        try:
            for first, body in self._framer.received(nbytes):
                # A broker of MQTT 3.1.1 refuses MQTT 5 with a CONNACK of its own version.
                old = first >> 4 == PacketType.CONNACK and len(body) == 2
                version = V311 if old else self._version
                self._handle(decode(first, body, version), version)
        except ProtocolError as error:
            self._end(f"the broker broke MQTT: {error}", error.reason_code)
        except RefusedError as error:
            self._refuse(error)
            self.abort()

    def pause_writing(self) -> None:
        self._outbox.paused = True

    def resume_writing(self) -> None:
        self._outbox.paused = False
        self._pump()

    def eof_received(self) -> None:
        self._ended = True
        self._hung_up()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ConnectionError):
            self._hung_up()
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._traffic = tcpinfo.traffic(self._socket)
            self._socket.close()
            self._socket = None
        if isinstance(exc, ssl.SSLError):
            self._refuse(RefusedError(why(exc)))
        else:
            # RabbitMQ before 3.13 answers MQTT 5 like this, when it has read a CONNECT.
            old = self._ended and self._count.bytes_out > 0
            self._refuse(RefusedError("it closed the connection", older=old, closed=True))
        for future in self._subscribed.values():
            if not future.done():
                future.set_exception(RefusedError(self._loss.reason))
        if not self.closed.done():
            self.closed.set_result(self._loss)

    def _hung_up(self) -> None:
        if self._loss is BROKE:
            self._loss = HUNG_UP

    # Sending

    def _send(self, packet: Packet) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._leaving:
            data = encode(packet, self._version)
            self._queued += len(data)
            self._outbox.answer(data)
            self._wake()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._awake = False
        if self._transport is not None and not self._transport.is_closing():
            self._outbox.pump(self._pull)

    def _pull(self) -> tuple[bytes, memoryview] | None:
        message = None if self._leaving else self._publisher.pull(self._queued)
        if message is not None:
            self._queued += sum(map(len, message))
        return message

    def _look(self, interval_s: float) -> None:
        """Keep the connection alive, and notice when it is not."""
        assert self._transport is not None
        due = self._ping.look(self._count.packets_out, self.sent_bytes(), self._count.bytes_in)
        if self._ping.lost:
            self._end("the broker does not answer any more", Reason.KEEPALIVE_TIMEOUT)
            return
        if due:
            self._send(Pingreq())
            self._ping.ask(self._queued)
        self._timer = self._loop.call_later(interval_s, self._look, interval_s)

    def _end(self, why_not: str, code: int) -> None:
        """Give the connection up, and tell an MQTT 5 broker why if it can be told at once."""
        self._refuse(RefusedError(f"no MQTT broker: {why_not}"))
        self._loss = Loss(why_not)
        if self._version == V5 and self._outbox.empty and self._transport is not None:
            self._transport.write(encode(Disconnect(code), V5))
        self.abort()

    def _refuse(self, error: RefusedError) -> None:
        if not self._connected.done():
            self._connected.set_exception(error)

    # Receiving

    def _handle(self, packet: Packet, version: int) -> None:
        match packet:
            case Publish():
                self._deliver(packet)
            case Puback():
                self._publisher.acknowledge(packet)
                self._wake()
            case Pingresp():
                self._ping.answered()
            case Suback() if packet.packet_id in self._subscribed:
                future = self._subscribed.pop(packet.packet_id)
                if not future.done():
                    future.set_result(packet)
            case Connack() if not self._connected.done():
                allowed = terms(packet, version, self._login)
                if version != self._version:
                    raise RefusedError("it answered in MQTT 3.1.1", older=True)
                self._connected.set_result(allowed)
            case Disconnect() if self._version == V5:
                told = reason(packet.reason, packet.properties)
                self._loss = Loss(f"the broker ended it: {told}", packet.reason == Reason.SESSION_TAKEN_OVER)
            case _:
                raise ProtocolError(f"an unexpected {type(packet).__name__}", Reason.PROTOCOL_ERROR)

    def _deliver(self, message: Publish) -> None:
        topic = message.topic
        if Property.TOPIC_ALIAS in message.properties:
            topic = self._aliases.resolve(topic, message.properties[Property.TOPIC_ALIAS])
        if message.qos == 0:
            self._on_chunk(topic, memoryview(message.payload), None)
            return
        acknowledge = functools.partial(self._send, Puback(message.packet_id))
        self._on_chunk(topic, memoryview(message.payload), acknowledge)

"""One client's connection: bytes in, packets handled one after the other, bytes out.

There is no task and no queue per connection. Packets are handled where they arrive; whatever has to be sent is
written by one call at the end of the loop's turn, which therefore joins what belongs to many packets. (asyncio sets
TCP_NODELAY itself, so that the kernel holds nothing back.)
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from broker.admission import UNLIMITED_BYTES
from broker.authority import Grants
from broker.buffer_pool import BufferPool
from broker.connections import Connections
from broker.counters import ConnectionCount
from broker.dialogue import Dialogue
from broker.errors import ProtocolError
from broker.fields import Buffer
from broker.forwarder import Forwarder
from broker.framer import Framer
from broker.introduction import SURPLUS_TEXT, Introduction, Welcome
from broker.keepalive import Keepalive
from broker.linger import Linger
from broker.log import told
from broker.outbox import Outbox
from broker.packet_decoder import decode
from broker.packet_encoder import encode
from broker.packets import OF_SERVERS, V5, V311, Connack, Disconnect, Will
from broker.properties import PacketType, Property
from broker.reason_string import explained
from broker.reasons import Reason
from broker.registry import Registry
from broker.session import Session

TURN_PACKETS = 256
"""How many packets of one connection are handled before others have their turn."""

UNSENT_BYTES = 1 << 16
"""How many bytes may wait in the transport before it is full."""

_PUBLISH = PacketType.PUBLISH << 4


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection; `scratch` is the receive buffer that all connections share, and `pool` too."""

    _transport: asyncio.Transport
    _outbox: Outbox
    _timer: asyncio.TimerHandle | Linger
    _dialogue: Dialogue
    _forwarder: Forwarder

    def __init__(self, registry: Registry, scratch: memoryview, pool: BufferPool, connections: Connections) -> None:
        config = registry.config
        self.count = ConnectionCount(connections=1)
        self._registry = registry
        self._scratch = scratch
        self._connections = connections
        self._framer = Framer(scratch, min(config.connect_bytes, config.max_packet_bytes), pool)
        self._loop = asyncio.get_running_loop()
        self._keepalive = Keepalive(partial(self.end, Reason.KEEPALIVE_TIMEOUT))
        self._version = V311
        self._max_bytes = UNLIMITED_BYTES
        self._introduction: Introduction | None = None
        self._session: Session | None = None
        self._will: Will | None = None
        self._awake = False
        self._ending = False
        self._client_id = self._peer = ""

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES, low=UNSENT_BYTES // 4)
        self._outbox = Outbox(self._transport, self.count)
        self._registry.totals.connections += 1
        surplus = self._connections.add(self, self._loop.time())
        self._introduction = Introduction(self._registry, transport, surplus)
        self._peer = self._introduction.name
        self._timer = self._loop.call_later(self._registry.config.connect_timeout_s, self._overdue)
        if surplus and self._connections.overcrowded:
            self.end(surplus, SURPLUS_TEXT)
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch if self._ending else self._framer.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.count.bytes_in += nbytes
        self._keepalive.heard_at = self._loop.time()
        if not self._ending:
            self._receive(nbytes)

    def pause_writing(self) -> None:
        self._outbox.paused = True

    def resume_writing(self) -> None:
        self._outbox.paused = False
        self._pump()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = True
        self._timer.cancel()
        self._keepalive.cancel()
        self._connections.discard(self)
        if self._session is not None:
            told("lost", client=self._client_id, peer=self._peer, text=str(exc or ""))
        self._release(will=True)
        # What they hold may be large, and this object is part of reference cycles that live a while.
        for part in ("_framer", "_outbox", "_dialogue", "_forwarder", "_keepalive", "_timer"):
            self.__dict__.pop(part, None)

    # An `Outlet` for the session

    def wake(self) -> None:
        """Write what waits, at the end of the loop's turn."""
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._pump)

    def end(self, reason: Reason, text: str = "", *, will: bool = True) -> None:
        """Leave the session, tell the client why, and close once the peer has read that, or lingers no more.

        MQTT 3.1.1 can tell a client why only in CONNACK.
        """
        if self._ending:
            return
        if self._introduction is not None:
            self._finish(self._introduction.refuse(reason, text), will)
            return
        self._registry.totals.count_end(reason.label)
        told("ended", client=self._client_id, peer=self._peer, code=reason, text=text)
        speaks = self._version == V5 and self._dialogue.opened
        packet = explained(Disconnect(reason), text, V5, self._max_bytes) if speaks else b""
        self._finish(packet if len(packet) <= self._max_bytes else b"", will)

    def cut(self) -> None:
        """Close at once, whatever is left unsaid."""
        self._transport.abort()

    def _finish(self, last: bytes, will: bool) -> None:
        """End the connection with this packet, or without one where it is empty."""
        self._ending = True
        if last:
            self._outbox.answer(last)
        self._release(will)
        self._keepalive.cancel()
        self._timer.cancel()
        self._timer = Linger(self._transport)
        self.wake()

    def _release(self, will: bool) -> None:
        if self._introduction is not None:
            self._introduction.cancel()
            self._introduction = None
            self.count = self._outbox.count = self._registry.counters.nameless(self.count)
        session, self._session = self._session, None
        if session is not None:
            self._registry.detach(session, self._will if will else None)

    # Sending

    def _pump(self) -> None:
        self._awake = False
        if not self._transport.is_closing() and self._outbox.pump(self._pull) and self._ending:
            self._outbox.close()

    def _pull(self) -> tuple[bytes, Buffer] | None:
        return None if self._session is None else self._forwarder.next(self._loop.time())

    def _answer(self, packet: bytes) -> None:
        if self._ending:
            return
        if len(packet) > self._max_bytes:
            self.end(Reason.PACKET_TOO_LARGE, f"an answer of {len(packet)} bytes is above the client's maximum")
        elif not self._outbox.answer(packet):
            self.end(Reason.QUOTA_EXCEEDED, "the client does not read the answers to its packets")
        self.wake()

    # Receiving

    def _receive(self, nbytes: int) -> None:
        handled = 0
        try:
            for first, body in self._framer.received(nbytes):
                self.count.packets_in += 1
                self.count.publishes_in += first & 0xF0 == _PUBLISH
                if self._introduction is not None:
                    self._introduce(self._introduction, first, body)
                else:
                    self._handle(first, body)
                if self._ending:
                    return
                handled += 1
                if handled == TURN_PACKETS and not self._framer.hold:
                    self._hold_back()
                    self._loop.call_soon(self._go_on)
        except ProtocolError as error:
            self.end(Reason(error.reason_code), str(error))

    def _hold_back(self) -> None:
        """Handle nothing more until `_go_on`, and read nothing more either."""
        self._framer.hold = True
        self._transport.pause_reading()

    def _go_on(self) -> None:
        self._transport.resume_reading()
        if not self._ending:
            self._framer.hold = False
            self._framer.buffer()
            self._receive(0)

    def _handle(self, first: int, body: memoryview) -> None:
        packet = decode(first, body, self._version)
        if isinstance(packet, Disconnect):
            self._depart(packet)
        else:
            self._dialogue.handle(packet)

    def _introduce(self, introduction: Introduction, first: int, body: memoryview) -> None:
        decision = introduction.receive(first, body)
        if isinstance(decision, Welcome):
            self._accept(decision)
            return
        self._hold_back()
        decision.add_done_callback(self._decided)

    def _decided(self, decision: asyncio.Future[Grants]) -> None:
        """The authority has answered, or the connection has ended before."""
        if self._introduction is not None:
            try:
                self._accept(self._introduction.conclude(decision))
            except ProtocolError as error:
                self.end(Reason(error.reason_code), str(error))
        self._go_on()

    def _accept(self, welcome: Welcome) -> None:
        """The client is in: from here on it has a session."""
        admission, registry, connect = welcome.admission, self._registry, welcome.connect
        session, resumed = registry.attach(self, admission, welcome.grants, connect.clean_start, connect.will)
        self._introduction = None
        self._session, self._will = session, connect.will
        self._version, self._max_bytes = admission.version, admission.max_packet_bytes
        self._client_id = admission.client_id
        self._framer.max_bytes = registry.config.max_packet_bytes
        self.count = self._outbox.count = registry.counters.of(admission.client_id, self.count, registry.sessions)
        self._dialogue = registry.converse(session, admission, self._answer, self._loop.time)
        self._forwarder = Forwarder(session, admission)
        self._dialogue.resume(encode(Connack(resumed, 0, admission.properties), self._version))
        self._timer.cancel()
        self._keepalive.start(admission.keepalive_s)
        told("connected", client=self._client_id, peer=self._peer, session="resumed" if resumed else "new")

    def _overdue(self) -> None:
        if self._introduction is not None:
            self._finish(self._introduction.refuse_late(), will=False)

    def _depart(self, packet: Disconnect) -> None:
        if packet.reason in OF_SERVERS:
            raise ProtocolError(f"DISCONNECT 0x{packet.reason:02X} is not for a client", Reason.PROTOCOL_ERROR)
        if self._session is not None and Property.SESSION_EXPIRY in packet.properties:
            self._registry.change_expiry(self._session, packet.properties[Property.SESSION_EXPIRY])
        told("disconnected", client=self._client_id, peer=self._peer, code=packet.reason)
        self._finish(b"", will=packet.reason != Reason.SUCCESS)

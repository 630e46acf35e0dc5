"""A blocking client that does what a test says and nothing by itself."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import deque
from typing import Any, Protocol

from tests.conformance import wire
from tests.conformance.reading import Received, read
from tests.conformance.wire import Filter, Kind, Properties, Text

FOREVER = {wire.P.SESSION_EXPIRY: 3600}


class Carrier(Protocol):
    """What carries the bytes: a TCP socket, or a WebSocket."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, seconds: float, /) -> None: ...
    def close(self) -> None: ...


def connection(address: tuple[str, int], patience: float) -> socket.socket:
    """A TCP connection that holds nothing back."""
    carrier = socket.create_connection(address, patience)
    carrier.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return carrier


class Client:
    """One connection; whatever is awaited has to come within `patience` seconds, or TimeoutError is raised."""

    def __init__(self, carrier: Carrier, version: int, patience: float) -> None:
        self.version = version
        self.patience = patience
        self.connack = Received(Kind.CONNACK, 0)
        self._socket = carrier
        self._bytes = bytearray()
        self._came: deque[Received] = deque()
        self._last_id = 0

    # Bytes and packets

    def send(self, *packets: bytes) -> None:
        """All of them in one piece."""
        self._socket.settimeout(self.patience)
        self._socket.sendall(b"".join(packets))

    def receive(self, patience: float | None = None) -> Received | None:
        """The next packet, or None where the broker has closed the connection."""
        if self._came:
            return self._came.popleft()
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        while (found := self._cut()) is None:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                assert not self._bytes, "the broker closed the connection within a packet"
                return None
            self._bytes += data
        return found

    def _cut(self) -> Received | None:
        size = 0
        for at in range(1, min(len(self._bytes), 5)):
            byte = self._bytes[at]
            size |= (byte & 127) << 7 * (at - 1)
            if byte < 128:
                assert at == len(wire.varint(size)), "a remaining length of the broker is not the shortest"
                end = at + 1 + size
                if len(self._bytes) < end:
                    return None
                first, body = self._bytes[0], bytes(self._bytes[at + 1 : end])
                del self._bytes[:end]
                return read(first, body, end, self.version)
        return None

    def expect(self, kind: Kind, patience: float | None = None) -> Received:
        """The next packet, which is of this type."""
        found = self.receive(patience)
        assert found is not None, f"the broker closed the connection; {kind.name} was due"
        assert found.kind is kind, f"{found} came; {kind.name} was due"
        return found

    def answer(self, kind: Kind) -> Received:
        """The next packet of this type; those before it stay for `receive`."""
        before: list[Received] = []
        while True:
            found = self.receive()
            assert found is not None, f"the broker closed the connection; {kind.name} was due"
            if found.kind is kind:
                self._came.extendleft(reversed(before))
                return found
            before.append(found)

    def closed(self, patience: float | None = None) -> list[Received]:
        """What came until the broker closed the connection."""
        found = []
        while (came := self.receive(patience)) is not None:
            found.append(came)
        return found

    def last(self, kind: Kind) -> Received:
        """What came until the broker closed the connection, which is one packet of this type."""
        came = self.closed()
        assert [packet.kind for packet in came] == [kind], f"{came} came before the connection was closed"
        return came[0]

    def rest(self) -> bytes:
        """The bytes that came until the broker closed the connection, whatever they are."""
        self._socket.settimeout(self.patience)
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while more := self._socket.recv(1 << 16):
                data += more
        return bytes(data)

    def refused(self, *reasons: int, patience: float | None = None) -> None:
        """The broker closes the connection, with one of the reasons where it says any, and sends nothing else."""
        for came in self.closed(patience):
            assert came.kind is Kind.DISCONNECT, f"{came} came; the connection had to be closed"
            assert came.reason in reasons or (not reasons and came.reason >= 0x80), f"reason 0x{came.reason:02X}"

    def quiet(self) -> None:
        """Nothing has come and nothing is on its way: two round trips, since answers may overtake messages."""
        self.ping()
        self.ping()
        assert not self._came, f"{list(self._came)} came; nothing was due"

    # What a client does

    def connect(self, client_id: Text, *, keep: bool = False, **fields: Any) -> Received:
        """CONNECT and its CONNACK; with `keep` the session is resumed, and lasts when the connection has ended."""
        if keep:
            fields.setdefault("clean", False)
            fields["with_properties"] = {**FOREVER, **(fields.get("with_properties") or {})}
        self.send(wire.connect(client_id, self.version, **fields))
        self.connack = self.expect(Kind.CONNACK)
        return self.connack

    def publish(self, topic: Text, payload: bytes = b"", qos: int = 0, **fields: Any) -> Received:
        """Publish, complete the handshake, and give the broker's first answer (PINGRESP for QoS 0)."""
        packet_id = fields.pop("packet_id", None) or self.next_id()
        self.send(wire.publish(topic, self.version, payload, qos, packet_id=packet_id, **fields))
        if qos == 0:
            return self.ping()
        if qos == 1:
            return self.answer(Kind.PUBACK)
        received = self.answer(Kind.PUBREC)
        if received.reason < 0x80:
            self.send(wire.acknowledge(Kind.PUBREL, packet_id))
            self.answer(Kind.PUBCOMP)
        return received

    def subscribe(self, *filters: Text | Filter, qos: int = 0, with_properties: Properties | None = None) -> Received:
        """SUBSCRIBE and its SUBACK."""
        asked = [f if isinstance(f, Filter) else Filter(f, qos) for f in filters]
        self.send(wire.subscribe(asked, self.version, self.next_id(), with_properties))
        return self.answer(Kind.SUBACK)

    def unsubscribe(self, *filters: Text) -> Received:
        """UNSUBSCRIBE and its UNSUBACK."""
        self.send(wire.unsubscribe(filters, self.version, self.next_id()))
        return self.answer(Kind.UNSUBACK)

    def message(self) -> Received:
        """The next packet, a PUBLISH, not acknowledged."""
        return self.expect(Kind.PUBLISH)

    def take(self) -> Received:
        """The next packet, a PUBLISH, acknowledged as its QoS asks."""
        found = self.message()
        if found.qos == 1:
            self.acknowledge(Kind.PUBACK, found.packet_id)
        elif found.qos == 2:
            self.acknowledge(Kind.PUBREC, found.packet_id)
            self.answer(Kind.PUBREL)
            self.acknowledge(Kind.PUBCOMP, found.packet_id)
        return found

    def acknowledge(self, kind: Kind, packet_id: int, reason: int = 0) -> None:
        self.send(wire.acknowledge(kind, packet_id, reason))

    def ping(self) -> Received:
        """PINGREQ and its PINGRESP: all that was sent before has been handled."""
        self.send(wire.packet(Kind.PINGREQ))
        return self.answer(Kind.PINGRESP)

    def disconnect(self, reason: int = 0, with_properties: Properties | None = None) -> None:
        """DISCONNECT, and wait until the broker has closed its end."""
        self.send(wire.disconnect(self.version, reason, with_properties))
        self.closed()

    def break_off(self) -> None:
        """Be thrown out for a malformed packet, and wait for that: the connection fails, and the broker knows it."""
        self.send(wire.packet(Kind.SUBSCRIBE, flags=0))
        self.closed()

    def abort(self) -> None:
        """Vanish: the broker sees a reset."""
        assert isinstance(self._socket, socket.socket)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    def next_id(self) -> int:
        """A packet identifier that was not used before."""
        self._last_id += 1
        return self._last_id

    @property
    def pending(self) -> int:
        """How many packets came before one that was awaited."""
        return len(self._came)

"""The load's MQTT 3.1.1 client: a blocking socket and the project's codec, the same for every broker."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterable

from broker.engines import Address
from broker.errors import BrokerError
from broker.fields import Buffer, text
from broker.framer import Framer
from broker.packet_decoder import decode
from broker.packet_encoder import encode, publish_head
from broker.packets import V311, Connack, Connect, Disconnect, Packet, Puback, Publish, Request, Suback, Subscribe

SCRATCH_BYTES = 1 << 16
MAX_PACKET_BYTES = 1 << 28
JOINED_BYTES = 1 << 13  # up to here one copy costs less than one more system call

_scratch = memoryview(bytearray(SCRATCH_BYTES))  # one thread, hence one for all clients


class LoadClient:
    """A connection whose CONNECT was accepted; it reads only when it is told to.

    `receive_bytes` bounds the kernel's receive buffer, 0 leaves it. Raises OSError, and BrokerError for a refusal.
    """

    def __init__(self, address: Address, client_id: str, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(address)
        self._framer = Framer(_scratch, MAX_PACKET_BYTES)
        self._ids = itertools.cycle(range(1, 1 << 16))
        self.send(Connect(client_id, V311))
        answer = self._one()
        if not isinstance(answer, Connack) or answer.reason:
            raise BrokerError(f"{client_id}: no connection: {answer}")

    def fileno(self) -> int:
        """For select."""
        return self.socket.fileno()

    def send(self, packet: Packet) -> None:
        """Send one packet."""
        self.socket.sendall(encode(packet, V311))

    def subscribe(self, topic_filter: str, qos: int) -> None:
        """Subscribe, on a connection where nothing else can arrive yet; BrokerError where less is granted."""
        self.send(Subscribe(1, (Request(topic_filter, qos),)))
        answer = self._one()
        if not isinstance(answer, Suback) or answer.reasons != (qos,):
            raise BrokerError(f"no subscription to {topic_filter} with QoS {qos}: {answer}")

    def publish(self, topic: str, payload: Buffer | bytearray, qos: int) -> None:
        """Publish; a large payload is sent from where it lies."""
        head = publish_head(
            text(topic),
            len(payload),
            qos=qos,
            retain=False,
            dup=False,
            packet_id=next(self._ids) if qos else 0,
            properties=b"",
            version=V311,
        )
        if len(payload) < JOINED_BYTES:
            self.socket.sendall(head + payload)
        else:
            self.socket.sendall(head, socket.MSG_MORE)
            self.socket.sendall(payload)

    def acknowledge(self, messages: Iterable[Publish]) -> None:
        """Send a PUBACK for each of them that has QoS 1."""
        if data := b"".join(encode(Puback(message.packet_id), V311) for message in messages if message.qos):
            self.socket.sendall(data)

    def packets(self, most: int = MAX_PACKET_BYTES) -> list[Packet]:
        """What one read of at most `most` bytes completes; waits for one. BrokerError at the end of the stream."""
        size = self.socket.recv_into(self._framer.buffer()[:most])
        if not size:
            raise BrokerError("the broker closed the connection")
        return [decode(first, body, V311) for first, body in self._framer.received(size)]

    def messages(self) -> list[Publish]:
        """`packets` that have to be application messages; BrokerError for anything else."""
        return [_message(packet) for packet in self.packets()]

    def close(self) -> None:
        """Take leave and wait for the broker to close: a socket closed with unread bytes cuts off what was sent."""
        self.send(Disconnect())
        self.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while self.socket.recv_into(_scratch):
                pass
        self.socket.close()

    def _one(self) -> Packet:
        while True:
            if packets := self.packets():
                return packets[0]


def _message(packet: Packet) -> Publish:
    if not isinstance(packet, Publish):
        raise BrokerError(f"a message expected, not {packet}")
    return packet


def take_credit(pipe: int) -> int:
    """Credit that was granted by now, waiting for some; BrokerError where who grants it has ended."""
    granted = len(os.read(pipe, 1 << 16))
    if not granted:
        raise BrokerError("the receiving process has ended")
    return granted


def grant_credit(pipe: int, messages: int) -> None:
    """Allow the publishing process that many messages more."""
    os.write(pipe, bytes(messages))

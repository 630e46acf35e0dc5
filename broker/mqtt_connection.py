"""One MQTT connection of a client: made, used and ended.

Messages that arrive are acknowledged by hand, so that a full inbox holds the broker back, and every PUBACK completes a
future.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from broker import tcpinfo
from broker.dial import dial
from broker.login import MAX_PACKET_BYTES, Loss, RefusedError, reason
from broker.mqtt_protocol import MqttProtocol
from broker.packets import V5, Disconnect, Request, Subscribe
from broker.ping import LOOKS
from broker.reasons import Reason

UNSENT_BYTES = 1 << 14  # what the kernel may hold beyond what the network has taken (Linux, TCP_NOTSENT_LOWAT)
CLOSE_S = 1.0  # longest time that a broker may take to close after our DISCONNECT
LEAST_BYTES = 512  # more than all of a PUBLISH but its payload


class MqttConnection(MqttProtocol):
    """Open once, use, close once."""

    async def open(self) -> None:
        """Connect; OSError where there is no listener, RefusedError where there is no MQTT for us, TimeoutError."""
        login = self._login
        async with asyncio.timeout(login.timeout_s):
            sock = await dial(login.host, login.port, login.congestion)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            self._socket = sock.dup()  # to read the kernel's counts when the transport has closed its own
            host = login.host if login.tls else None
            try:
                await self._loop.create_connection(lambda: self, sock=sock, ssl=login.tls, server_hostname=host)
                self._publisher.terms = await self._connected
            except BaseException:
                self._connected.cancel()
                self.abort()
                raise
        self._wake()
        keepalive_s = self._publisher.terms.keepalive_s
        if keepalive_s and not self.closed.done():
            self._timer = self._loop.call_later(keepalive_s / LOOKS, self._look, keepalive_s / LOOKS)

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe with QoS 1; RefusedError names the filter that the broker does not allow, TimeoutError."""
        packet_id = self._publisher.free_id()
        future = self._subscribed[packet_id] = self._loop.create_future()
        if self.closed.done():
            raise RefusedError(self._loss.reason)
        self._send(Subscribe(packet_id, tuple(Request(name, 1, self._version == V5) for name in filters)))
        async with asyncio.timeout(self._login.timeout_s):
            suback = await future
        for name, code in zip(filters, suback.reasons, strict=False):
            if code >= Reason.UNSPECIFIED:
                raise RefusedError(f"no subscription to {name}: {reason(code, suback.properties)}")

    def publish(
        self,
        topic: str,
        head: bytes,
        body: memoryview,
        retain: bool = False,
        bulk: bool = False,
        done: asyncio.Future[None] | None = None,
    ) -> None:
        """Publish `head` and `body` as one payload, bulk behind all that is none.

        With QoS 1 where there is a `done`, which the PUBACK sets; never when the connection ends before.
        """
        self._publisher.add(topic, head, body, retain, bulk, done)
        self._wake()

    async def close(self) -> None:
        """Take leave with a DISCONNECT, so that the will is not published."""
        self.leave("this end has left")
        await asyncio.wait([self.closed])

    def leave(self, reason: str) -> None:
        """Begin to take leave; `closed` gives the reason when that is done."""
        if self.closed.done() or self._leaving:
            return
        self._loss = Loss(reason)
        self._send(Disconnect())
        self._leaving = True
        self._loop.call_later(CLOSE_S, self.abort)

    @property
    def largest_payload(self) -> int:
        """Bytes of a PUBLISH that the broker takes, beside a topic of ours."""
        terms = self._publisher.terms
        return MAX_PACKET_BYTES if terms is None else max(LEAST_BYTES, terms.max_packet_bytes - LEAST_BYTES)

    def traffic(self) -> tcpinfo.Traffic:
        """Application bytes sent and received, by our kernel's count, and the same two by the other end's."""
        return self._traffic if self._socket is None else tcpinfo.traffic(self._socket)

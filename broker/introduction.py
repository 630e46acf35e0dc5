"""From the first packet of a connection to its CONNACK: whether the client is let in, and on which terms."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from inspect import isawaitable
from typing import cast

from broker.admission import UNLIMITED_BYTES, Admission, admit
from broker.authority import Grants, Peer, may_publish
from broker.errors import ProtocolError
from broker.log import told
from broker.packet_decoder import decode, peek_version
from broker.packet_encoder import encode
from broker.packets import V5, V311, Connack, Connect
from broker.properties import PacketType, Property
from broker.reason_string import explained
from broker.reasons import Reason, return_code
from broker.registry import Registry

_log = logging.getLogger(__name__)

SURPLUS_TEXT = "there are too many connections"

# What a client is told where its reason code does not exist in CONNACK (MQTT 5.0, 3.2.2.2).
_IN_CONNACK = {Reason.SERVER_SHUTTING_DOWN: Reason.SERVER_UNAVAILABLE}


@dataclass(frozen=True)
class Welcome:
    """A client that is let in."""

    connect: Connect
    admission: Admission
    grants: Grants


class Introduction:
    """One client that has not been answered yet. `surplus` is a reason to refuse it whoever it is, or SUCCESS."""

    _admission: Admission

    __slots__ = ("_admission", "_connect", "_deciding", "_peer", "_registry", "_surplus", "_version", "name")

    def __init__(self, registry: Registry, transport: asyncio.BaseTransport, surplus: Reason) -> None:
        host, port = (*(transport.get_extra_info("peername") or ()), "?", "?")[:2]
        self.name = f"{host}:{port}"
        self._registry = registry
        self._peer = Peer(str(host), _common_name(transport))
        self._surplus = surplus
        self._version = 0  # 0 until the client has named one in which it can be answered
        self._connect: Connect | None = None
        self._deciding: asyncio.Future[Grants] | None = None

    def receive(self, first: int, body: memoryview) -> Welcome | asyncio.Future[Grants]:
        """Handle the first packet; what `conclude` takes where the authority needs time.

        Raises ProtocolError where the client is refused already.
        """
        if first >> 4 != PacketType.CONNECT:
            raise ProtocolError("the first packet is no CONNECT", Reason.PROTOCOL_ERROR)
        connect = self._read(first, body)
        if self._surplus:
            raise ProtocolError(SURPLUS_TEXT, self._surplus)
        self._admission = replace(admit(connect, self._registry.config), peer=self.name)
        self._connect = replace(connect, client_id=self._admission.client_id)
        grants = self._registry.authority.admit(self._connect, self._peer)
        if not isawaitable(grants):
            return self._welcome(grants)
        self._deciding = asyncio.ensure_future(grants)
        return self._deciding

    def conclude(self, decided: asyncio.Future[Grants]) -> Welcome:
        """The authority has answered; ProtocolError where the client is refused."""
        error = asyncio.CancelledError() if decided.cancelled() else decided.exception()
        if isinstance(error, ProtocolError):
            raise error
        if error is not None:
            _log.error("%s: the authority failed", self.name, exc_info=error)
            raise ProtocolError("the broker cannot decide about clients now", Reason.SERVER_UNAVAILABLE)
        return self._welcome(decided.result())

    def cancel(self) -> None:
        """The connection ends before the client was answered."""
        if self._deciding is not None:
            self._deciding.cancel()
            # Should it fail all the same, nobody has to hear of it.
            self._deciding.add_done_callback(lambda decided: decided.cancelled() or decided.exception())

    def refuse(self, reason: Reason, text: str, label: str = "") -> bytes:
        """Count and log that the client is refused; returns the CONNACK to say so, in the client's own protocol.

        It is empty where the client can be told nothing.
        """
        label = label or reason.label
        self._registry.totals.refused += 1
        self._registry.totals.count_end(label)
        client_id = self._connect.client_id if self._connect else ""
        told("refused", client=client_id, peer=self.name, reason=label, code=reason, text=text)
        if self._version == V5:
            # The largest packet that it accepts is unknown where its CONNECT could not be read.
            asked = self._connect.properties if self._connect else {Property.MAXIMUM_PACKET_SIZE: 0}
            limit = asked.get(Property.MAXIMUM_PACKET_SIZE, UNLIMITED_BYTES)
            return explained(Connack(False, _IN_CONNACK.get(reason, reason)), text, V5, limit)
        if self._version == V311:
            return encode(Connack(False, return_code(reason)), V311)
        return b""

    def refuse_late(self) -> bytes:
        """As `refuse`, for a client that did not introduce itself in time, or that was not decided about."""
        text = "no decision about this client in time" if self._connect else "no CONNECT in time"
        return self.refuse(Reason.SERVER_UNAVAILABLE, text, "connect_timeout")

    def _read(self, first: int, body: memoryview) -> Connect:
        claimed = peek_version(body)
        try:
            connect = cast(Connect, decode(first, body, V5))
        except ProtocolError as error:
            # MQTT 3.1.1 has a return code for a version that is not supported, but none for malformed packets.
            if error.reason_code == Reason.UNSUPPORTED_VERSION:
                self._version = V311
            elif claimed == V5:
                self._version = V5
            raise
        self._version, self._connect = connect.version, connect
        return connect

    def _welcome(self, grants: Grants) -> Welcome:
        connect, admission = self._connect, self._admission
        assert connect is not None
        if connect.will and not may_publish(grants, connect.will.topic):
            raise ProtocolError(f"not allowed to have a will for {connect.will.topic!r}", Reason.NOT_AUTHORIZED)
        size = len(encode(Connack(False, 0, admission.properties), admission.version))
        if size > admission.max_packet_bytes:
            raise ProtocolError(f"CONNACK has {size} bytes, above the client's maximum", Reason.PACKET_TOO_LARGE)
        return Welcome(connect, admission, grants)


def _common_name(transport: asyncio.BaseTransport) -> str | None:
    """The first CN of the client's certificate; asyncio shows only certificates that were verified."""
    certificate = transport.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return None

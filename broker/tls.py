"""TLS for both ends: contexts from files, and a gate where a connection shakes hands before the broker sees it.

The gate is there because asyncio's own TLS servers tell nobody why a handshake failed. It uses the protocol class that
they are made of, which keeps a future of its handshake.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import AppProtocolState, SSLProtocol, SSLProtocolState
from collections.abc import Callable
from pathlib import Path

from broker.broker_config import BrokerConfig
from broker.errors import SettingsError
from broker.token_bucket import TokenBucket

SYSTEM = "system"
"""What stands for the certificate authorities of the operating system."""
SHUTDOWN_S = 2.0
"""How long a peer may take to say goodbye in TLS's own way."""
READ_BYTES = 1 << 15
"""What one read may bring; every connection keeps a buffer of this size, for which asyncio by itself takes 256 KiB."""

MakeConnection = Callable[[], asyncio.BufferedProtocol]
OnRefused = Callable[[str, str], None]
"""Is told the peer's address and the reason."""


def server_context(config: BrokerConfig) -> ssl.SSLContext:
    """The broker's context; SettingsError names the setting, the file and what is wrong with it.

    With an authority nothing is resumed: every connection shows its certificate anew, so that a revoked one is noticed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL keeps sessions of TLS 1.2 by their ids, whatever the options say, and Python cannot forbid it.
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if config.tls_ca else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load_chain(context, config.tls_certificate, config.tls_key)
    if config.tls_ca:
        context.verify_mode = ssl.CERT_REQUIRED if config.tls_require else ssl.CERT_OPTIONAL
        _load_trust(context, "tls_ca", config.tls_ca)
    if config.tls_crl:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        _load_trust(context, "tls_crl", config.tls_crl)
    return context


def client_context(ca: str = SYSTEM, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """A client's context: the broker's certificate has to fit its host and come from the authority in the file `ca`.

    `certificate` and `key` are the client's own, empty for none. Raises SettingsError like `server_context`.
    """
    if bool(certificate) != bool(key):
        raise SettingsError("tls_key: a certificate and its key go together; valid: both, or none")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca == SYSTEM:
        context.load_default_certs()
    else:
        _load_trust(context, "tls_ca", ca)
    if certificate:
        _load_chain(context, certificate, key)
    return context


def failure(error: BaseException) -> str:
    """One phrase for a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, ConnectionResetError):
        return "the peer hung up"
    return str(error) or type(error).__name__


class Gate:
    """Where connections become TLS: within `connect_timeout_s`, and no more of them than the limits of connections."""

    def __init__(self, config: BrokerConfig, on_refused: OnRefused) -> None:
        self._config = config
        self._on_refused = on_refused
        self._bucket = TokenBucket(config.connections_per_s)
        self._shaking: set[Handshake] = set()
        self.context, self._trust = self.reread()

    def reread(self) -> tuple[ssl.SSLContext, bytes]:
        """What the files make now: a context, and what it takes for good. Raises SettingsError."""
        # In this order: what changes in between is taken for a change by the next one who asks.
        trust = b"".join(_content(name, getattr(self._config, name)) for name in ("tls_ca", "tls_crl"))
        return server_context(self._config), trust

    def replace(self, context: ssl.SSLContext, trust: bytes) -> None:
        """Use the context from now on; handshakes by another trust are cut."""
        if self.is_other(trust):
            self.close()
        self.context, self._trust = context, trust

    def is_other(self, trust: bytes) -> bool:
        """Whether certificates that were good may not be any more, or the other way round."""
        return trust != self._trust

    def guarded(self, make_connection: MakeConnection) -> Callable[[], Handshake]:
        """What to listen with: a connection is used when its handshake is done; else `on_refused` is told."""
        return lambda: Handshake(self, make_connection(), self._on_refused, self._config.connect_timeout_s)

    def enter(self, handshake: Handshake, now: float) -> bool:
        """Whether there is room for another handshake."""
        if len(self._shaking) >= self._config.max_connections or not self._bucket.take(now):
            return False
        self._shaking.add(handshake)
        return True

    def leave(self, handshake: Handshake) -> None:
        """A handshake has ended."""
        self._shaking.discard(handshake)

    def close(self) -> None:
        """Cut the connections whose handshake is not done."""
        for handshake in list(self._shaking):
            handshake.cut()


class Handshake(SSLProtocol):
    """asyncio's TLS on one accepted connection, which tells why its handshake failed where it did."""

    max_size = READ_BYTES

    # asyncio's own, of which its types say nothing
    _state: SSLProtocolState
    _app_state: AppProtocolState
    _eof_received: bool
    _app_reading_paused: bool
    _incoming: ssl.MemoryBIO
    _sslobj: ssl.SSLObject

    def __init__(
        self, gate: Gate, connection: asyncio.BufferedProtocol, on_refused: OnRefused, timeout_s: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = gate
        self._context = gate.context
        self._on_refused = on_refused
        self._peer = "?"
        done: asyncio.Future[None] = self._loop.create_future()
        done.add_done_callback(self._ended)
        super().__init__(
            self._loop,
            connection,
            self._context,
            done,
            server_side=True,
            ssl_handshake_timeout=timeout_s,  # type: ignore[arg-type]  # a fraction will do
            ssl_shutdown_timeout=SHUTDOWN_S,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._carrier = transport
        self._peer = "{}:{}".format(*(transport.get_extra_info("peername") or ("?", 0))[:2])
        if self._context is not self._gate.context:  # it was replaced since the connection was accepted
            self._refuse("certificates have been read again")
        elif self._gate.enter(self, self._loop.time()):
            super().connection_made(transport)
        else:
            self._refuse("too many handshakes")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if self._state is SSLProtocolState.FLUSHING and self._app_reading_paused:
            self._eof_received = True
            return True  # not closed before the connection goes on, and with it `_do_flush`
        return super().eof_received()

    def _do_flush(self) -> None:
        # What came before the client's goodbye is the connection's, which may have stopped reading for a while: asyncio
        # forgets it then. When the connection goes on, this is called again.
        goodbye, left = self._eof_received or self._app_state is AppProtocolState.STATE_EOF, -1
        while goodbye and left != (left := self._incoming.pending + self._sslobj.pending()):
            self._do_read()  # type: ignore[attr-defined]
            if self._app_reading_paused:
                return
        super()._do_flush()  # type: ignore[misc]

    def cut(self) -> None:
        """Close at once."""
        self._carrier.abort()

    def _refuse(self, reason: str) -> None:
        self._on_refused(self._peer, reason)
        self._carrier.abort()

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        # asyncio closes without the alert that OpenSSL has made, so the client would never learn what is wrong.
        if handshake_exc is not None:
            self._process_outgoing()  # type: ignore[attr-defined]
        super()._on_handshake_complete(handshake_exc)

    def _ended(self, done: asyncio.Future[None]) -> None:
        self._gate.leave(self)
        if not done.cancelled() and (error := done.exception()) is not None:
            self._on_refused(self._peer, failure(error))


def _load_chain(context: ssl.SSLContext, certificate: str, key: str) -> None:
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        if "-----BEGIN " not in _read(name, path):
            raise SettingsError(f"{name}: {path} holds no PEM; valid: a file that begins with -----BEGIN")
    if "ENCRYPTED" in _read("tls_key", key):
        raise SettingsError(f"tls_key: {key} is locked with a passphrase; valid: a key without")
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise SettingsError(f"tls_key: {key} is not the key of {certificate}") from None
        raise SettingsError(f"tls_certificate: {certificate} or tls_key: {key}: {failure(error)}") from None


def _load_trust(context: ssl.SSLContext, name: str, path: str) -> None:
    _read(name, path)
    kind, what = ("crl", "list of revoked certificates") if name == "tls_crl" else ("x509", "certificate")
    before = context.cert_store_stats()[kind]
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise SettingsError(f"{name}: {path} holds no PEM that can be read") from None
    if context.cert_store_stats()[kind] == before:
        raise SettingsError(f"{name}: {path} holds no {what}")


def _read(name: str, path: str) -> str:
    return _content(name, path).decode("ascii", errors="replace")


def _content(name: str, path: str) -> bytes:
    """What the file holds; nothing where the setting is empty."""
    try:
        return Path(path).read_bytes() if path else b""
    except OSError as error:
        raise SettingsError(f"{name}: {path}: {error.strerror}") from None

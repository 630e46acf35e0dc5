"""The channel over MQTT: one connection at a time, reconnecting for as long as the deadline allows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from broker import messages, wire
from broker.backoff import Backoff
from broker.channel import ChannelConfig
from broker.credentials import Credentials
from broker.dial import why
from broker.endpoint import Endpoint
from broker.errors import BrokerError, ConnectError
from broker.held import Held
from broker.login import Login, RefusedError
from broker.messages import Credit, DownHeld, Share, State, UpHeld
from broker.mqtt_connection import MqttConnection
from broker.outgoing import AGAIN_S, OWN, Chunk, add_chunk
from broker.tcpinfo import Summed
from broker.topics import PROTOCOL, SERVER
from broker.versions import Versions

log = logging.getLogger(__name__)

CONNECT_S = 10.0  # longest time for each step of one attempt
FAREWELL_S = 2.0  # longest time to announce that this end leaves

_OWN = {kind.__name__ for kind in OWN}
_UNAWAITED = {kind.__name__ for kind in (Credit, UpHeld, DownHeld, Share)}
"""What nobody waits for the acknowledgement of."""


class MqttChannel(Endpoint):
    """A channel over an MQTT broker, for the server (name "server") and for agents; implements `Channel`.

    It is TLS where it is to be `secure` or the settings name certificates; SettingsError for files that cannot be used.
    Entering it raises ConnectError("cannot reach broker HOST:PORT: reason"). Afterwards a lost connection is made
    again, subscriptions and presence renewed and unacknowledged chunks sent again; when that takes longer than
    `timeout_s`, `receive` and `send` raise ConnectError.
    """

    def __init__(
        self,
        run: str,
        name: str,
        host: str,
        port: int,
        config: ChannelConfig | None = None,
        secure: bool = False,
    ) -> None:
        super().__init__(run, name, config or ChannelConfig())
        used, limit = self.config, min(CONNECT_S, self.config.timeout_s)
        shown = Credentials.of(used, name, secure)
        me = (f"sc-{run}-{name}", used.keepalive_s, limit, shown.username, shown.password)
        self._login = Login(host, port, *me, used.congestion, shown.context)
        self._versions = Versions(self.config.protocol)
        self._held = Held(self._fetch_missed)
        self._of_use = False  # the broker has taken messages of this connection, and not only this end's state
        self.refused = 0  # chunks of what ends tell each other that the broker did not take
        self._connection: MqttConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._unacknowledged: dict[asyncio.Future[None], Chunk] = {}
        self._ended = Summed()

    def tcp(self) -> dict[str, Any]:
        """Application bytes of this end's TCP connections so far.

        `sent_bytes` and `received_bytes` as this end's kernel counts them; `peer_sent_bytes` and `peer_received_bytes`
        the same two directions as the broker's end counts them, None where it is not visible; `connections`.
        """
        ended, connection = self._ended, self._connection
        return (ended if connection is None else ended.plus(connection.traffic())).named()

    @property
    def filters(self) -> list[str]:
        """What this end subscribes to; of `info` every protocol version, so that foreign agents are noticed."""
        here = f"sc/{PROTOCOL}/{self.run}"
        if self.name == SERVER:
            return [
                f"sc/+/{self.run}/+/info",
                *(f"{here}/+/{channel}" for channel in ("state", "up", "ack", "metrics")),
            ]
        return [f"{here}/{self.name}/down", f"{here}/{self.name}/cmd", f"{here}/{SERVER}/state"]

    def _publish(self, chunk: Chunk) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._failure is not None:
            done.set_exception(self._failure)
        elif chunk.qos == 0:
            if self._connection is not None:
                self._connection.publish(chunk.topic, chunk.header, chunk.body)
            done.set_result(None)
        else:
            self._unacknowledged[done] = chunk
            done.add_done_callback(self._forget)
            if self._connection is not None:
                self._connection.publish(chunk.topic, chunk.header, chunk.body, chunk.retain, chunk.bulk, done)
        return done

    def _sent_bytes(self, chunks: Collection[asyncio.Future[None]]) -> int:
        return 0 if self._connection is None else self._connection.sent_of(chunks)

    def _forget(self, done: asyncio.Future[None]) -> None:
        chunk = self._unacknowledged.pop(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._of_use = self._of_use or chunk.kind not in _OWN
        elif self._failure is None and (chunk.kind in _UNAWAITED or self._announces(chunk)):
            log.warning("%s: a %s is said again: %s", self.name, chunk.kind, error)
            self.refused += 1
            asyncio.get_running_loop().call_later(AGAIN_S, self._say_again, chunk)

    def _announces(self, chunk: Chunk) -> bool:
        """Whether it says that this end is back: without that, peers do not send again what was lost."""
        return self._entered and chunk.kind == State.__name__

    def _say_again(self, chunk: Chunk) -> None:
        # A new connection says anew what there is to say.
        if self._connection is not None:
            add_chunk(self.sent, chunk.kind, len(chunk.body))
            self._publish(chunk)

    def _feed(self, topic: str, payload: wire.Buffer, acknowledge: Callable[[], None] | None) -> None:
        if acknowledge is not None:
            acknowledge = self._held.take(len(payload), acknowledge)
            if acknowledge is None:
                return
        super()._feed(topic, payload, acknowledge)

    def _fetch_missed(self) -> None:
        """Connect again, now that there is a place for what found none."""
        if self._connection is not None:
            self._connection.leave("more had come than was received")

    async def _open(self) -> None:
        try:
            await self._connect()
        except (OSError, TimeoutError, RefusedError) as error:
            raise self._unreachable(why(error)) from None
        self._keeper = asyncio.create_task(self._keep(), name=f"connection of {self.name}")
        try:
            # What the broker retained comes before its acknowledgement of this, so the peer's state is known now.
            await self.send(SERVER, State("online", self.boot))
        except BaseException:
            await self._close(clean=False)
            raise

    async def _close(self, clean: bool) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        connection = self._connection
        if connection is None:
            return
        try:
            if clean and not connection.closed.done():
                with contextlib.suppress(BrokerError, TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        await self.send(SERVER, State("offline", self.boot))
                await connection.close()
        finally:
            connection.abort()
            self._retire()
            await asyncio.wait([connection.closed])

    async def _connect(self) -> MqttConnection:
        """A connection that has its subscriptions, in the newest MQTT version that the broker speaks."""
        for protocol in self._versions.attempt():
            connection = MqttConnection(self._login, protocol, self._will(), self._feed)
            try:
                await connection.open()
                await connection.subscribe(self.filters)
            except BaseException as error:
                connection.abort()
                self._ended = self._ended.plus(connection.traffic())
                if not isinstance(error, RefusedError):
                    raise
                if not self._versions.refused(protocol, error):
                    raise self._versions.explained(protocol, error) from None
            else:
                self._versions.worked(protocol)
                self._connection, self._of_use = connection, False
                self.largest_chunk = connection.largest_payload - wire.HEADER.size
                return connection
        raise AssertionError("the last version is never refused in favour of another")

    def _will(self) -> tuple[str, bytes]:
        body = messages.encode(State("offline", self.boot))
        [(header, chunk)] = wire.split(State.code, self.boot, next(self._ids), body, wire.USUAL_BYTES)
        return str(self._topic(SERVER, State)), header + bytes(chunk)

    async def _keep(self) -> None:
        """Wait for the connection to break and make a new one, until that is hopeless."""
        backoff = Backoff(self.config.timeout_s)
        while self._connection is not None:
            made = time.monotonic()
            loss = await asyncio.shield(self._connection.closed)
            self._retire()
            log.info("%s: %s, connecting again", self.name, loss.reason)
            if loss.final:
                self._give_up(self._unreachable(f"another client took the name {self.name}"))
            else:
                now = time.monotonic()
                backoff.lost(now, now - made, loss.hung_up, self._of_use)
                await self._reconnect(loss.reason, backoff)

    async def _reconnect(self, reason: str, backoff: Backoff) -> None:
        while not backoff.over(time.monotonic()):
            await asyncio.sleep(backoff.pause_s())
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, RefusedError) as error:
                reason = why(error)
                continue
            self._resume(connection)
            return
        lasting = f" that lasts; has another client the name {self.name}?" if backoff.rival else ""
        self._give_up(self._unreachable(f"{reason}; no connection for {self.config.timeout_s:g} s{lasting}"))

    def _resume(self, connection: MqttConnection) -> None:
        """Announce this end again, send what no broker has acknowledged, and ask for what was lost on the way here."""
        unacknowledged = list(self._unacknowledged.items())
        self._announce()
        for done, chunk in unacknowledged:
            add_chunk(self.sent, chunk.kind, len(chunk.body))
            connection.publish(chunk.topic, chunk.header, chunk.body, chunk.retain, chunk.bulk, done)
        self._tell_all()
        if self._held.missed and not self._held.chunks:
            self._fetch_missed()

    def _retire(self) -> None:
        if self._connection is not None:
            self._ended = self._ended.plus(self._connection.traffic())
            self._connection = None
            self._held.missed = False

    def _give_up(self, error: ConnectError) -> None:
        self._fail(error)
        for done in list(self._unacknowledged):
            if not done.done():
                done.set_exception(error)

    def _unreachable(self, reason: str) -> ConnectError:
        return ConnectError(f"cannot reach broker {self._login.host}:{self._login.port}: {reason}")

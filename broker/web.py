"""The broker's HTTP: MQTT over WebSocket at /mqtt, and pages for machines. No other module needs aiohttp."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import WSCloseCode, WSMsgType, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from broker.broker_config import BrokerConfig
from broker.listener import MakeConnection, TcpListener
from broker.websocket import HEADROOM_BYTES, WebSocketTransport

MQTT_PATH = "/mqtt"
METRICS_PATH = "/metrics"
SUBPROTOCOL = "mqtt"
CLOSE_S = 2.0
"""How long a client may take to answer the frame that closes its WebSocket."""
SURPLUS = 64
"""Connections beyond the broker's limit, so that their clients can be told about it."""
SCRATCH_BYTES = 1 << 18
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether the broker is to blame; clients that send no HTTP would fill the log with traces of the stack."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log = logging.getLogger(__name__)
_log.addFilter(_is_ours)


class WebListener:
    """Listens through `carrier`: MQTT over WebSocket where `websocket` is True, and the page that `metrics` makes."""

    def __init__(
        self,
        carrier: TcpListener,
        config: BrokerConfig,
        *,
        websocket: bool = False,
        metrics: Callable[[], str] | None = None,
    ) -> None:
        self._carrier = carrier
        self._config = config
        self._websocket = websocket
        self._metrics = metrics
        self._open: set[Tap] = set()

    async def open(self, make_connection: MakeConnection) -> tuple[str, int]:
        self._make_connection = make_connection
        # A connection that sends no request is closed after the same time as one that sends no CONNECT.
        http = web.Server(self._handle, logger=_log, access_log=None, keepalive_timeout=self._config.connect_timeout_s)
        scratch = memoryview(bytearray(SCRATCH_BYTES))
        limit = self._config.max_connections + SURPLUS
        timeout_s = self._config.connect_timeout_s
        self._address = await self._carrier.open(lambda: Tap(http(), scratch, self._open, limit, timeout_s))
        return self._address

    @property
    def urls(self) -> dict[str, str]:
        """What is served and where, for example `{"metrics": "http://127.0.0.1:9100/metrics"}`."""
        host, port = self._address
        host, s = f"[{host}]" if ":" in host else host, "s" if self._carrier.secure else ""
        found = {}
        if self._websocket:
            found["websocket"] = f"ws{s}://{host}:{port}{MQTT_PATH}"
        if self._metrics is not None:
            found["metrics"] = f"http{s}://{host}:{port}{METRICS_PATH}"
        return found

    async def close(self) -> None:
        await self._carrier.close()
        for tap in list(self._open):
            tap.cut_idle()

    def cut_idle(self) -> None:
        """Close the connections that are TLS and have no MQTT connection."""
        if self._carrier.secure:
            for tap in list(self._open):
                tap.cut_idle()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._websocket and request.path == MQTT_PATH:
            return await self._carry(request)
        if self._metrics is None or request.path != METRICS_PATH:
            raise web.HTTPNotFound
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_GET, hdrs.METH_HEAD])
        return web.Response(body=self._metrics().encode(), headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    async def _carry(self, request: web.BaseRequest) -> web.StreamResponse:
        """One WebSocket, from its handshake to its end."""
        offered = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "")
        if SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
            raise web.HTTPBadRequest(text=f"WebSocket with the subprotocol {SUBPROTOCOL} is needed here\n")
        socket = web.WebSocketResponse(
            protocols=[SUBPROTOCOL],
            max_msg_size=self._config.max_packet_bytes + HEADROOM_BYTES,
            timeout=CLOSE_S,
            compress=False,
        )
        await socket.prepare(request)
        carrier = request.transport
        if carrier is None or carrier.is_closing():
            return socket
        goodbye: list[asyncio.Task[bool]] = []
        connection = self._make_connection()
        transport = WebSocketTransport(
            carrier,
            connection,
            lambda: goodbye.append(asyncio.create_task(socket.close())),
            self._config.connect_bytes + HEADROOM_BYTES,
        )
        tap = carrier.get_protocol()
        assert isinstance(tap, Tap)
        tap.attach(connection, transport)
        connection.connection_made(transport)
        try:
            await self._receive(socket, transport)
            await asyncio.gather(*goodbye)
        except ConnectionError:
            pass  # the client is gone, and its MQTT connection is told so in any case
        finally:
            tap.detach()
            connection.connection_lost(None)
        return socket

    async def _receive(self, socket: web.WebSocketResponse, transport: WebSocketTransport) -> None:
        """Until the WebSocket is closed by either end, or breaks MQTT's rule of binary frames (MQTT-6.0.0-1)."""
        while (message := await socket.receive()).type is WSMsgType.BINARY:
            await transport.feed(message.data)
        if message.type is WSMsgType.TEXT:
            await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)


class Tap(asyncio.BufferedProtocol):
    """One connection of a web listener: all goes to `http`, and an MQTT connection is told what concerns it.

    `scratch` is the receive buffer, and `others` the connections, of which there may be `limit`. Within `timeout_s`
    there has to be an MQTT connection; whoever wants pages only may come again.
    """

    _timer: asyncio.TimerHandle

    def __init__(
        self, http: asyncio.Protocol, scratch: memoryview, others: set[Tap], limit: int, timeout_s: float
    ) -> None:
        self._http = http
        self._scratch = scratch
        self._others = others
        self._limit = limit
        self._timeout_s = timeout_s
        self._connection: asyncio.BufferedProtocol | None = None

    def attach(self, connection: asyncio.BufferedProtocol, websocket: WebSocketTransport) -> None:
        """From now on there is an MQTT connection on this one."""
        self._connection, self._websocket = connection, websocket
        self._timer.cancel()

    def detach(self) -> None:
        """The MQTT connection has ended, this one not yet."""
        self._connection = None

    def cut_idle(self) -> None:
        """Close at once unless it has an MQTT connection."""
        if self._connection is None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        crowded = len(self._others) >= self._limit
        self._others.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self.cut_idle)
        self._http.connection_made(transport)
        if crowded:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._connection is not None:
            self._websocket.progress(nbytes)
        self._http.data_received(bytes(self._scratch[:nbytes]))

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()
        if self._connection is not None:
            self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._others.discard(self)
        # The MQTT connection is told by the handler, after what has been received: it may end in a DISCONNECT.
        self._http.connection_lost(exc)

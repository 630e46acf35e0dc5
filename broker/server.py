"""The embedded MQTT broker: listens, accepts connections, ends them all when it is closed."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import asdict
from types import TracebackType
from typing import Any

from broker.broker_config import BrokerConfig
from broker.congestion import set_congestion
from broker.connection import Connection
from broker.counters import ConnectionCount
from broker.errors import ConnectError, SettingsError
from broker.framer import SCRATCH_BYTES
from broker.reasons import Reason
from broker.registry import Registry

__all__ = ["Broker", "BrokerConfig"]

CLOSE_S = 0.5
"""How long clients may take to read the DISCONNECT of a broker that is closed."""

_log = logging.getLogger(__name__)


class Broker:
    """An MQTT 3.1.1 and 5 broker in the running event loop, QoS 0 and 1, with sessions in memory.

        async with Broker(BrokerConfig(port=0)) as broker:
            host, port = broker.address

    Entering raises ConnectError, naming host, port and reason, where it cannot listen.
    """

    def __init__(self, config: BrokerConfig | None = None) -> None:
        self.config = config or BrokerConfig()
        self._connections: set[Connection] = set()
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))

    async def __aenter__(self) -> Broker:
        loop = asyncio.get_running_loop()
        host, port = self.config.host, self.config.port
        self._registry = Registry(self.config)
        try:
            self._server = await loop.create_server(
                lambda: Connection(self._registry, self._scratch, self._connections), host, port, backlog=1024
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise ConnectError(f"cannot listen on {host}:{port}: {reason}") from None
        try:
            for sock in self._server.sockets:
                set_congestion(sock, self.config.congestion)
        except SettingsError:
            self._server.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.end(Reason.SERVER_SHUTTING_DOWN, will=False)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._all_closed()
        except TimeoutError:
            _log.info("cut %d connections that did not close", len(self._connections))
        finally:
            for connection in list(self._connections):
                connection.cut()
            await self._all_closed()
            self._registry.close()
        await self._server.wait_closed()

    async def _all_closed(self) -> None:
        while self._connections:
            await next(iter(self._connections)).closed.wait()

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) to connect to; the port is the real one where 0 was asked for."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def counters(self) -> dict[str, ConnectionCount]:
        """By client id, over all of the client's connections, kept when it has gone."""
        return self._registry.counters

    def snapshot(self) -> dict[str, Any]:
        """Everything that is counted, JSON-able: totals, traffic of all clients together and of each."""
        registry = self._registry
        retained = registry.router.retained
        return {
            "open_connections": len(self._connections),
            "sessions": len(registry.sessions),
            "queued_bytes": sum(session.held_bytes for session in registry.sessions.values()),
            "retained": {"messages": len(retained), "bytes": retained.held_bytes},
            "totals": asdict(registry.totals),
            "traffic": asdict(registry.counters.total()),
            "clients": {client_id: asdict(count) for client_id, count in registry.counters.items()},
        }

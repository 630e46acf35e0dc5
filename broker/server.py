"""The embedded MQTT broker: listens, accepts connections, ends them all when it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import Any

from broker.application_message import Message
from broker.authority import Authority
from broker.broker_config import BrokerConfig
from broker.buffer_pool import BufferPool
from broker.connection import Connection
from broker.connections import Connections
from broker.counters import ConnectionCount
from broker.durable_registry import DurableRegistry
from broker.fields import Buffer
from broker.framer import SCRATCH_BYTES
from broker.guard import Guard, authority_of
from broker.listener import Listener, TcpListener
from broker.log import told
from broker.metrics import render
from broker.properties import NO_PROPERTIES
from broker.reasons import Reason
from broker.registry import Registry
from broker.statistics import Statistics, gather
from broker.sys_topics import SysTopics
from broker.tls import Gate
from broker.topic_filter import check_topic
from broker.web_listeners import web_listeners

__all__ = ["Broker", "BrokerConfig"]

CLOSE_S = 0.5
"""How long clients may take to read the DISCONNECT of a broker that is closed."""

REUSED_BYTES = 1 << 24
"""How many bytes of large receive buffers are kept to be used again."""


class Broker:
    """An MQTT 3.1.1 and 5 broker in the running event loop, with sessions in memory, and in a file where asked.

        async with Broker(BrokerConfig(port=0)) as broker:
            host, port = broker.address

    `authority` decides who may do what, and `listeners` are used instead of the TCP port of the settings. Entering
    raises ConnectError, naming host, port and reason, where it cannot listen.
    """

    def __init__(
        self,
        config: BrokerConfig | None = None,
        authority: Authority | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.config = config or BrokerConfig()
        self.authority = authority or authority_of(self.config)
        self.gate = Gate(self.config, self._refuse_handshake) if self.config.tls_certificate else None
        self._web = web_listeners(self.config, self.gate, self.metrics)
        self._listeners = listeners or [
            TcpListener(self.config.host, self.config.port, congestion=self.config.congestion, gate=self.gate),
            *self._web,
        ]
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._pool = BufferPool(REUSED_BYTES)
        self._sys_timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Broker:
        self._registry = (DurableRegistry if self.config.store else Registry)(self.config, self.authority)
        self._connections = Connections(self.config.max_connections, self.config.connections_per_s)
        self.addresses: list[tuple[str, int]] = []
        async with AsyncExitStack() as failed, AsyncExitStack() as opened:
            failed.callback(self._registry.close)
            for listener in self._listeners:
                self.addresses.append(await listener.open(self._make_connection))
                opened.push_async_callback(listener.close)
            self._opened = opened.pop_all()
            failed.pop_all()
        self._started_s = asyncio.get_running_loop().time()
        self._sys_topics = SysTopics(partial(self.publish, retain=True))
        if self.config.sys_interval_s:
            self._update_sys_topics()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connections.closing = True
        if self._sys_timer is not None:
            self._sys_timer.cancel()
        await self._opened.aclose()
        self._registry.closing = True
        for connection in self._connections:
            connection.end(Reason.SERVER_SHUTTING_DOWN, will=False)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connections.all_closed()
        except TimeoutError:
            told("cut", connections=len(self._connections))
        finally:
            for connection in self._connections:
                connection.cut()
            await self._connections.all_closed()
            self._registry.close()
            if isinstance(self.authority, Guard):
                self.authority.close()

    def reload(self) -> None:
        """Read the files of users, rules and certificates again; SettingsError, and nothing has changed.

        Clients that are connected have the rights of the new files, and those that may not stay are ended. Where
        certificates are trusted that were not before, or the other way round, all who showed one have to do so again.
        """
        fresh = self.gate.reread() if self.gate else None
        others = self.gate is not None and fresh is not None and self.gate.is_other(fresh[1])
        if isinstance(self.authority, Guard):
            self.authority.reload(others)
        if self.gate and fresh:
            self.gate.replace(*fresh)
        if others:
            self._end_strangers()
        if isinstance(self.authority, Guard):
            self._registry.renew(self.authority.renew)

    def _end_strangers(self) -> None:
        """End the connections that are TLS and no client's yet: whom they belong to was found out in the past."""
        for listener in self._web:
            listener.cut_idle()
        known = {session.outlet for session in self._registry.sessions.values()}
        for connection in self._connections:
            if connection not in known:
                connection.end(Reason.SERVER_UNAVAILABLE, "certificates have been revoked")

    def _refuse_handshake(self, peer: str, reason: str) -> None:
        self._registry.totals.refused += 1
        self._registry.totals.count_end("tls_handshake")
        told("refused", peer=peer, reason="tls_handshake", text=reason)

    def _make_connection(self) -> Connection:
        return Connection(self._registry, self._scratch, self._pool, self._connections)

    def _update_sys_topics(self) -> None:
        self._sys_topics.update(self.statistics())
        self._sys_timer = asyncio.get_running_loop().call_later(self.config.sys_interval_s, self._update_sys_topics)

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) to connect to, of the first listener; the port is the real one where 0 was asked for."""
        return self.addresses[0]

    def publish(self, topic: str, payload: Buffer, *, retain: bool = False, qos: int = 0) -> None:
        """Send a message of the broker's own, `$SYS` topics among them; ProtocolError for an invalid topic.

        A retained message for which there is no room is dropped and counted.
        """
        check_topic(topic)
        self._registry.router.publish(Message(topic, payload, qos, retain, NO_PROPERTIES, None), None)

    @property
    def urls(self) -> dict[str, str]:
        """Where the broker is reached over HTTP: `websocket` and `metrics`, as far as the settings ask for them."""
        return {name: url for listener in self._web for name, url in listener.urls.items()}

    def statistics(self) -> Statistics:
        """What is counted and held now."""
        uptime_s = asyncio.get_running_loop().time() - self._started_s
        return gather(self._registry, len(self._connections), uptime_s)

    def metrics(self) -> str:
        """The page for Prometheus."""
        counters = self._registry.counters
        clients = self._registry.sessions if self.config.metrics_clients else ()
        return render(self.statistics(), {name: counters[name] for name in clients if name in counters})

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

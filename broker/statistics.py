"""What a broker counts and holds at one moment, gathered when somebody asks: nothing here runs while messages do."""

from __future__ import annotations

import os
from dataclasses import dataclass

from broker.counters import ConnectionCount, Totals
from broker.registry import Registry
from broker.store import Store


@dataclass(frozen=True)
class StoreStatistics:
    """Of the file that outlives the broker: commits, seconds they took, bytes with its log, whether it fails now."""

    commits: int
    commit_s: float
    held_bytes: int
    failing: bool


@dataclass(frozen=True)
class Statistics:
    """Of one broker; `open_connections` are those of clients with or without a session.

    `connected` and `disconnected` are sessions with and without a connection, `waiting` the deliveries that are
    queued and `unacknowledged` those that were sent and not acknowledged, both of all sessions, as `queued_bytes` is.
    `store` is None where there is none.
    """

    uptime_s: float
    open_connections: int
    connected: int
    disconnected: int
    subscriptions: int
    waiting: int
    unacknowledged: int
    queued_bytes: int
    retained_messages: int
    retained_bytes: int
    traffic: ConnectionCount
    totals: Totals
    store: StoreStatistics | None = None


def gather(registry: Registry, open_connections: int, uptime_s: float) -> Statistics:
    """Go once through all sessions and counters."""
    subscriptions = waiting = unacknowledged = queued_bytes = 0
    for session in registry.sessions.values():
        subscriptions += len(session.subscriptions)
        waiting += session.waiting
        unacknowledged += session.in_flight
        queued_bytes += session.held_bytes
    retained = registry.router.retained
    return Statistics(
        uptime_s=uptime_s,
        open_connections=open_connections,
        connected=registry.connected,
        disconnected=len(registry.sessions) - registry.connected,
        subscriptions=subscriptions,
        waiting=waiting,
        unacknowledged=unacknowledged,
        queued_bytes=queued_bytes,
        retained_messages=len(retained),
        retained_bytes=retained.held_bytes,
        traffic=registry.counters.total(),
        totals=registry.totals,
        store=_of_store(registry.store) if registry.store else None,
    )


def _of_store(store: Store) -> StoreStatistics:
    files = (store.path, f"{store.path}-wal")
    held_bytes = sum(os.path.getsize(path) for path in files if os.path.exists(path))
    return StoreStatistics(store.commits, store.commit_s, held_bytes, bool(store.failure))

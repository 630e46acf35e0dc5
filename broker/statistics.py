"""What a broker counts and holds at one moment, gathered when somebody asks: nothing here runs while messages do."""

from __future__ import annotations

from dataclasses import dataclass

from broker.counters import ConnectionCount, Totals
from broker.registry import Registry


@dataclass(frozen=True)
class Statistics:
    """Of one broker; `open_connections` are those of clients with or without a session.

    `connected` and `disconnected` are sessions with and without a connection, `waiting` the deliveries that are
    queued and `unacknowledged` those that were sent and not acknowledged, both of all sessions, as `queued_bytes` is.
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
    )

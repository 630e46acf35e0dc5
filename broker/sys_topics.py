"""The broker's own topics under `$SYS/broker`, with the names that Mosquitto gave them."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter

from broker.statistics import Statistics
from broker.topic_filter import SYS
from broker.version import version

ROOT = SYS + "broker/"

_COUNTS: dict[str, Callable[[Statistics], int]] = {
    "clients/connected": attrgetter("connected"),
    "clients/disconnected": attrgetter("disconnected"),
    "clients/total": lambda s: s.connected + s.disconnected,
    "clients/maximum": attrgetter("totals.most_connected"),
    "clients/expired": attrgetter("totals.sessions_expired"),
    "messages/received": attrgetter("traffic.packets_in"),
    "messages/sent": attrgetter("traffic.packets_out"),
    "messages/stored": lambda s: s.retained_messages + s.waiting + s.unacknowledged,
    "publish/messages/received": attrgetter("traffic.publishes_in"),
    "publish/messages/sent": attrgetter("traffic.publishes_out"),
    "publish/messages/dropped": attrgetter("totals.dropped"),
    "bytes/received": attrgetter("traffic.bytes_in"),
    "bytes/sent": attrgetter("traffic.bytes_out"),
    "retained messages/count": attrgetter("retained_messages"),
    "subscriptions/count": attrgetter("subscriptions"),
}

_LOADS: dict[str, Callable[[Statistics], int]] = {
    "sockets": attrgetter("totals.connections"),
    "messages/received": attrgetter("traffic.packets_in"),
    "messages/sent": attrgetter("traffic.packets_out"),
    "publish/received": attrgetter("traffic.publishes_in"),
    "publish/sent": attrgetter("traffic.publishes_out"),
    "publish/dropped": attrgetter("totals.dropped"),
    "bytes/received": attrgetter("traffic.bytes_in"),
    "bytes/sent": attrgetter("traffic.bytes_out"),
}

_MINUTES = (1, 5, 15)


class SysTopics:
    """Calls `publish(topic, payload)` for every topic whose value is another one than the last time."""

    def __init__(self, publish: Callable[[str, bytes], None]) -> None:
        self._publish = publish
        self._published: dict[str, bytes] = {}
        self._loads = {f"load/{name}/{minutes}min": 0.0 for name in _LOADS for minutes in _MINUTES}
        self._counted = dict.fromkeys(_LOADS, 0)
        self._uptime_s = 0.0

    def update(self, statistics: Statistics) -> None:
        """Publish what has changed."""
        self._average(statistics)
        values = {"version": f"splitcom broker {version()}", "uptime": f"{statistics.uptime_s:.0f} seconds"}
        values |= {name: str(read(statistics)) for name, read in _COUNTS.items()}
        values |= {name: f"{load:.2f}" for name, load in self._loads.items()}
        for name, value in values.items():
            payload = value.encode()
            if self._published.get(name) != payload:
                self._published[name] = payload
                self._publish(ROOT + name, payload)

    def _average(self, statistics: Statistics) -> None:
        """Loads per minute, averaged exponentially over 1, 5 and 15 minutes as the load of a machine is."""
        elapsed_s = statistics.uptime_s - self._uptime_s
        self._uptime_s = statistics.uptime_s
        for name, read in _LOADS.items():
            before, self._counted[name] = self._counted[name], read(statistics)
            per_minute = (self._counted[name] - before) * 60 / elapsed_s if elapsed_s else 0.0
            for minutes in _MINUTES:
                key = f"load/{name}/{minutes}min"
                kept = math.exp(-elapsed_s / (60 * minutes))
                self._loads[key] = per_minute + kept * (self._loads[key] - per_minute)

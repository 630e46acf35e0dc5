"""What the broker counts: bytes and packets per client, and totals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class ConnectionCount:
    """Application bytes, MQTT packets and PUBLISH packets of one client's connections, summed over reconnects."""

    connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    publishes_in: int = 0
    publishes_out: int = 0

    def add(self, other: ConnectionCount) -> None:
        """Sum field by field."""
        self.connections += other.connections
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.packets_in += other.packets_in
        self.packets_out += other.packets_out
        self.publishes_in += other.publishes_in
        self.publishes_out += other.publishes_out


@dataclass
class Totals:
    """Counts of the whole broker since it started.

    `refused` are connections that never got a session, `dropped` messages that a byte cap or a client's maximum packet
    size kept from one subscriber, `expired` messages whose expiry passed while they waited, `forbidden` messages and
    subscriptions that a client is not allowed, and `rejected`, by reason, those beyond a limit and subscriptions to
    invalid filters. `ended` counts the connections that the broker refused or ended by
    reason, for example `malformed_packet` or `keepalive_timeout`. `most_connected` is the most clients that were
    connected at once, and `sessions_expired` are sessions whose client stayed away for too long.
    """

    connections: int = 0
    refused: int = 0
    dropped: int = 0
    expired: int = 0
    forbidden: int = 0
    most_connected: int = 0
    sessions_expired: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)

    def count_end(self, reason: str) -> None:
        """Book the end of a connection that the broker ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1

    def count_rejected(self, reason: str) -> None:
        """Book a message or a subscription that was refused, though the client may ask for it."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


class Counters(dict[str, ConnectionCount]):
    """Counts by client id, kept when the client has gone.

    Beyond `limit` ids those of clients without a session are folded into `folded`, oldest first, so that clients
    with ever new ids do not fill the memory.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.folded = ConnectionCount()
        self._limit = limit

    def of(self, client_id: str, before: ConnectionCount, live: Collection[str]) -> ConnectionCount:
        """The client's count, plus what its connection counted before its CONNECT was read; `live` is never folded."""
        count = self.setdefault(client_id, ConnectionCount())
        count.add(before)
        if len(self) > self._limit:
            oldest = next((known for known in self if known not in live and known != client_id), None)
            if oldest is not None:
                self.folded.add(self.pop(oldest))
        return count

    def nameless(self, before: ConnectionCount) -> ConnectionCount:
        """The count of all connections without a client id, and of folded clients, plus what was counted before."""
        self.folded.add(before)
        return self.folded

    def total(self) -> ConnectionCount:
        """The sum over all clients, folded ones among them."""
        total = ConnectionCount()
        for count in (self.folded, *self.values()):
            total.add(count)
        return total

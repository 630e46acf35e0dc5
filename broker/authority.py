"""Who may connect, and what a client may do: the questions that the broker asks, and the answer "anyone, anything"."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from broker.packets import Connect
from broker.topic_filter import SYS


@dataclass(frozen=True)
class Peer:
    """The other end of a connection: its host without the port, and the common name of its verified certificate."""

    address: str
    certificate: str | None = None


class Grants(Protocol):
    """What one client may do, decided once per connection."""

    @property
    def checks_deliveries(self) -> bool:
        """Whether `may_receive` is to be asked for every delivery."""

    def may_publish(self, topic: str) -> bool:
        """Whether a message of this topic, a will among them, is accepted from the client."""

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether the subscription is granted; of a shared subscription this is the filter without its group."""

    def may_receive(self, topic: str) -> bool:
        """Whether a message of this topic is sent to the client.

        It is also asked, once, about the messages that wait in a session that the client resumes.
        """


def may_publish(grants: Grants, topic: str) -> bool:
    """Whether a client with these grants may publish to the topic; `$SYS` belongs to the broker alone."""
    return topic != "$SYS" and not topic.startswith(SYS) and grants.may_publish(topic)


class Authority(Protocol):
    """Decides on every CONNECT."""

    def admit(self, connect: Connect, peer: Peer) -> Grants | Awaitable[Grants]:
        """The client's grants, or something to await for them; ProtocolError(text, reason) refuses the client.

        `connect.client_id` is never empty: a client without one has been given one. While an awaitable is awaited
        nothing is read from the connection, and it is cancelled when the connection ends or its time is up. The text
        of the error is told to MQTT 5 clients.
        """


class Everything:
    """The grants of a client that may do what it likes."""

    checks_deliveries = False

    def may_publish(self, topic: str) -> bool:
        return True

    def may_subscribe(self, topic_filter: str) -> bool:
        return True

    def may_receive(self, topic: str) -> bool:
        return True


class Anyone:
    """Admits every client to everything."""

    def __init__(self) -> None:
        self._grants = Everything()

    def admit(self, connect: Connect, peer: Peer) -> Grants:
        return self._grants

"""Subscriptions, and the groups that share one (MQTT 5.0, 4.8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.application_message import Message

if TYPE_CHECKING:
    from broker.session import Session


@dataclass(slots=True, eq=False)
class Subscription:
    """One topic filter of one session with its options; `identifier` 0 is none."""

    session: Session
    topic_filter: str
    qos: int
    no_local: bool
    retain_as_published: bool
    identifier: int


class Group:
    """The members of one shared subscription; each message goes to one of them."""

    __slots__ = ("_next", "members")

    def __init__(self) -> None:
        self.members: list[Subscription] = []
        self._next = 0

    def add(self, member: Subscription) -> None:
        """The newest member comes last in turn."""
        self.members.append(member)

    def remove(self, member: Subscription) -> None:
        """The turn of the others stays as it was."""
        index = self.members.index(member)
        del self.members[index]
        if index < self._next:
            self._next -= 1

    def pick(self, message: Message, queue_bytes: int) -> Subscription | None:
        """Whose turn it is; None where no member can take the message.

        Members that are connected and have room under the byte cap take turns. Failing them, QoS 1 and 2 wait for a
        member that is absent, and failing those a connected one without room gets it, and with it the consequences.
        """
        best: int | None = None
        best_rank, count = _CANNOT, len(self.members)
        for turn in range(self._next, self._next + count):
            index = turn % count
            rank = _rank(self.members[index], message, queue_bytes)
            if rank < best_rank:
                best, best_rank = index, rank
            if rank == _READY:
                break
        if best is None:
            return None
        self._next = (best + 1) % count
        return self.members[best]

    def sweep(self, now: float) -> None:
        """What has expired gives its room back."""
        for member in self.members:
            member.session.sweep(now)


_READY, _ABSENT, _FULL, _CANNOT = range(4)


def _rank(member: Subscription, message: Message, queue_bytes: int) -> int:
    session = member.session
    if not session.accepts(message.topic):
        return _CANNOT
    room = session.has_room(message, queue_bytes)
    if session.outlet is not None:
        return _READY if room else _FULL
    return _ABSENT if room and message.qos and member.qos else _CANNOT

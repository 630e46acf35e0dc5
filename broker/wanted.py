"""What a SUBSCRIBE asks for in all: a filter that it names more than once is one subscription with the last options."""

from __future__ import annotations

from broker.errors import ProtocolError
from broker.packets import Request
from broker.reasons import Reason
from broker.session import Session, size_of
from broker.topic_filter import is_filter, is_shared, unshared

FILTER_BYTES = 256
"""What the topic filters of a client may have on average where it has as many as it may."""
LONGEST_FILTER = 0xFFFF


class Wanted:
    """The outcome is what the same requests had one after the other, but that retained messages come once.

    `granted` are the requests to fulfil and `refused` the reasons of the others, by filter; `replayed` are the filters
    whose retained messages the client gets. `answers` are SUBACK's codes: QoS, or 0x80 and above.
    """

    def __init__(self, session: Session, most: int) -> None:
        self.granted: dict[str, Request] = {}
        self.refused: dict[str, Reason] = {}
        self.replayed: dict[str, None] = {}
        self.answers: list[int] = []
        self._session = session
        self._left = most - len(session.subscriptions)
        self._left_bytes = max(FILTER_BYTES * most, LONGEST_FILTER) - session.filter_bytes

    def add(self, request: Request) -> None:
        """The next request of the packet; ProtocolError where no client may make it."""
        topic_filter = request.topic_filter
        if topic_filter in self.refused:
            self.answers.append(self.refused[topic_filter])
            return
        first = topic_filter not in self.granted
        if first and (reason := self._check(topic_filter)):
            self.refused[topic_filter] = reason
            self.answers.append(reason)
            return
        if is_shared(topic_filter):
            if request.no_local:
                raise ProtocolError(f"No Local with {topic_filter!r}", Reason.PROTOCOL_ERROR)
        elif request.retain_handling == 0 or (
            request.retain_handling == 1 and first and topic_filter not in self._session.subscriptions
        ):
            self.replayed[topic_filter] = None
        self.granted[topic_filter] = request
        self.answers.append(request.qos)

    def _check(self, topic_filter: str) -> Reason:
        """Why a filter that the packet has not named before is refused, or SUCCESS."""
        if not is_filter(topic_filter):
            return Reason.TOPIC_FILTER_INVALID
        size = size_of(topic_filter)
        new = topic_filter not in self._session.subscriptions
        if new and (self._left < 1 or self._left_bytes < size):
            return Reason.QUOTA_EXCEEDED
        if not self._session.grants.may_subscribe(unshared(topic_filter)):
            return Reason.NOT_AUTHORIZED
        if new:
            self._left -= 1
            self._left_bytes -= size
        return Reason.SUCCESS

"""Topic aliases of one connection (MQTT 5.0, 3.3.2.3.4): a number that stands for a topic, in either direction."""

from __future__ import annotations

from broker.errors import ProtocolError
from broker.reasons import Reason


class InboundAliases:
    """What a client's aliases stand for; valid are 1 to `maximum`."""

    __slots__ = ("_maximum", "_topics")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int) -> str:
        """The topic of a PUBLISH that carries an alias; a topic beside it gives the alias a new meaning."""
        if not 1 <= alias <= self._maximum:
            raise ProtocolError(f"topic alias {alias}; valid: 1 to {self._maximum}", Reason.TOPIC_ALIAS_INVALID)
        if topic:
            self._topics[alias] = topic
        elif alias not in self._topics:
            raise ProtocolError(f"topic alias {alias} stands for nothing yet", Reason.PROTOCOL_ERROR)
        return self._topics[alias]


class OutboundAliases:
    """Aliases for the first `maximum` topics that are sent to a client."""

    __slots__ = ("_aliases", "_maximum")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._aliases: dict[str, int] = {}

    def known(self, topic: str) -> int:
        """The alias that the client knows for this topic, 0 where there is none."""
        return self._aliases.get(topic, 0)

    def free(self) -> int:
        """The alias that the next topic can get, 0 where all are taken."""
        return len(self._aliases) + 1 if len(self._aliases) < self._maximum else 0

    def learn(self, topic: str) -> None:
        """The client was sent this topic together with the `free` alias."""
        self._aliases[topic] = len(self._aliases) + 1

"""Application messages as the broker holds them: made once, delivered to many."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

from broker.fields import Buffer, text
from broker.properties import Properties, Property, encode_properties

_NOT_FORWARDED = {Property.MESSAGE_EXPIRY, Property.TOPIC_ALIAS, Property.SUBSCRIPTION_ID, Property.WILL_DELAY}
_OVERHEAD_BYTES = 512


@dataclass(slots=True, eq=False)
class Message:
    """An application message as it is forwarded; `deadline` in seconds of the broker's clock, None for no expiry.

    `prefix` is the topic with its length and `forwarded` the encoded properties that subscribers get; as objects they
    would take many times as much memory, so only these bytes are kept. `number` counts those that were retained.
    """

    topic: str
    payload: Buffer
    qos: int
    retain: bool
    properties: InitVar[Properties]
    deadline: float | None
    prefix: bytes = field(init=False)
    forwarded: bytes = field(init=False)
    cost: int = field(init=False)
    number: int = field(init=False)

    def __post_init__(self, properties: Properties) -> None:
        self.prefix = text(self.topic)
        self.forwarded = b""
        self.number = 0
        if properties:
            kept = {name: value for name, value in properties.items() if name not in _NOT_FORWARDED}
            self.forwarded = encode_properties(kept)
        # Objects cost memory too: without an overhead a byte cap would not bound a queue of empty messages.
        self.cost = len(self.payload) + len(self.prefix) + len(self.forwarded) + _OVERHEAD_BYTES

    @classmethod
    def of(cls, topic: str, payload: Buffer, qos: int, retain: bool, properties: Properties, now: float) -> Message:
        """A message whose expiry, if its properties hold one, begins now."""
        expiry = properties.get(Property.MESSAGE_EXPIRY) if properties else None
        return cls(topic, payload, qos, retain, properties, None if expiry is None else now + expiry)

    def expired(self, now: float) -> bool:
        """Whether its expiry has passed."""
        return self.deadline is not None and self.deadline <= now


@dataclass(slots=True, eq=False)
class Delivery:
    """One message on its way to one subscriber; packet id 0 until it is sent."""

    message: Message
    qos: int
    retain: bool
    subscription_ids: tuple[int, ...]
    packet_id: int = 0
    dup: bool = False

    def expired(self, now: float) -> bool:
        """Whether it comes too late; what may have been sent once does not expire (MQTT 5.0, 4.3.3)."""
        return not self.dup and self.message.expired(now)

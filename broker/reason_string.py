"""Reason strings: one line for people in the packets of MQTT 5 that refuse something."""

from __future__ import annotations

from dataclasses import replace

from broker.packet_encoder import encode
from broker.packets import V5, Connack, Disconnect, Puback, Pubcomp, Pubrec, Pubrel, Suback
from broker.properties import Property

MAX_CHARACTERS = 256


Answer = Connack | Puback | Pubrec | Pubrel | Pubcomp | Suback | Disconnect


def explained(packet: Answer, text: str, version: int, max_bytes: int) -> bytes:
    """The encoded packet with the text as its reason string, or without where that is above `max_bytes`.

    MQTT 3.1.1 has no reason strings, and an empty text gives none (MQTT 5.0, 3.1.2.11.7 and 3.2.2.3.9).
    """
    if text and version == V5:
        line = " ".join(text.split())[:MAX_CHARACTERS]
        encoded = encode(replace(packet, properties={**packet.properties, Property.REASON_STRING: line}), version)
        if len(encoded) <= max_bytes:
            return encoded
    return encode(packet, version)

"""Where a broker is known not to do what a statement says, and what it does instead."""

from __future__ import annotations

MOSQUITTO_DIFFERS: dict[str, str] = {
    "3.1.1:MQTT-2.2.2-2": "does not look at the flags of PUBACK, PUBREC, PUBCOMP and PINGREQ",
    "3.1.1:MQTT-3.3.5-1": "delivers at the QoS of one of the subscriptions, which need not be the highest",
    "3.1.1:MQTT-4.8.0-1": "ignores a SUBACK from a client",
    "5:MQTT-3.1.2-24": "sends packets that are one byte too large",
    "5:MQTT-3.1.2-25": "sends nothing any more after a message that was too large",
    "5:MQTT-3.1.4-3": "closes the older connection without a DISCONNECT",
    "5:MQTT-3.3.2-14": "accepts wildcards in a response topic",
    "5:MQTT-3.3.4-6": "accepts a subscription identifier from a publisher",
    "5:MQTT-3.3.4-7": "answers PUBREC 0x97 and closes the connection without DISCONNECT 0x93",
    "5:MQTT-3.8.3-4": "accepts no local on a shared subscription",
    "5:MQTT-4.3.3-7": "lets a message expire that was sent",
    "5:MQTT-4.8.2-1": "accepts a share without a name",
    "5:MQTT-4.8.2-2": "accepts wildcards in the name of a share",
    "5:MQTT-4.9.0-2": "sends several messages for one acknowledgement",
    "5:MQTT-4.13.1-1": "ignores a SUBACK from a client",
}

EMBEDDED_DIFFERS: dict[str, str] = {}

DIFFERS = {"embedded": EMBEDDED_DIFFERS, "mosquitto": MOSQUITTO_DIFFERS}
"""By the broker's name and the statement's id; such a test has to fail."""

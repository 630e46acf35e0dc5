"""MQTT 5 reason codes (MQTT 5.0, 2.4), and what MQTT 3.1.1 says in their place."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why something was answered, refused or ended; 0x80 and above are failures."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEPALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    CONNECTION_RATE_EXCEEDED = 0x9F

    @property
    def label(self) -> str:
        """The name as it stands in logs and counters, for example `quota_exceeded`."""
        return self.name.lower()


def describe(code: int) -> str:
    """`quota_exceeded (0x97)`; codes that this broker never sends show as the number alone."""
    try:
        return f"{Reason(code).label} (0x{code:02X})"
    except ValueError:
        return f"0x{code:02X}"


_RETURN_CODES: dict[int, int] = {
    Reason.UNSUPPORTED_VERSION: 1,
    Reason.CLIENT_ID_NOT_VALID: 2,
    Reason.BAD_USER_NAME_OR_PASSWORD: 4,
    Reason.NOT_AUTHORIZED: 5,
}


def return_code(code: int) -> int:
    """The CONNACK return code of MQTT 3.1.1 (3.2.2.3) for a reason code; what it cannot say is `unavailable`, 3."""
    return 0 if code == Reason.SUCCESS else _RETURN_CODES.get(code, 3)

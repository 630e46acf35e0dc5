"""What a program sees of the message plane: a channel that sends and receives typed messages, and its counts."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from broker.messages import Message


@dataclass(frozen=True, slots=True)
class Malformed:
    """Delivered in place of a message that could not be decoded."""

    reason: str
    version_mismatch: bool = False


@dataclass(slots=True)
class Count:
    """Of one message class: whole messages, and every chunk that crossed, repetitions included.

    `body_bytes` are the chunks without their headers, `envelope_bytes` the headers alone.
    """

    messages: int = 0
    chunks: int = 0
    body_bytes: int = 0
    envelope_bytes: int = 0


@dataclass(frozen=True)
class ChannelConfig:
    """Sizes, bounds, deadlines and credentials of a channel; both ends may differ in all of them.

    In `username` and the paths of files, `{name}` stands for the name of this end, so that all ends can share one file
    of settings. `tls_ca` is "system" for the authorities of the operating system.
    """

    chunk_bytes: int = 0  # bytes of a body in one MQTT message; 0: 64 to 256 KiB, by the measured rate
    window: int = 4  # bulk chunks in flight to the broker, and beyond the receiver's credit
    inbox: int = 64  # messages that wait for receive()
    keepalive_s: int = 60  # MQTT keepalive
    timeout_s: float = 60.0  # longest time without progress
    max_message_bytes: int = 256 * 2**20  # longest body, sent or received; also at most 65535 chunks
    protocol: Literal["auto", "5", "3.1.1"] = "auto"  # MQTT version; auto: 5, else 3.1.1
    congestion: str = ""  # TCP congestion control of this end; empty: the system's own
    username: str = ""  # user name at the broker; empty: none
    password_file: str = ""  # its first line is the password
    tls_ca: str = ""  # whose certificate the broker has to have; empty: no TLS, or the system's with mqtts://
    tls_certificate: str = ""  # this end's own certificate
    tls_key: str = ""  # and its key

    def __post_init__(self) -> None:
        for key, low, high in (
            ("window", 1, 255),
            ("inbox", 1, 65536),
            ("keepalive_s", 1, 65535),
            ("max_message_bytes", 65536, 2**32 - 1),
        ):
            if not low <= getattr(self, key) <= high:
                raise ValueError(f"{key}: {getattr(self, key)} is out of {low}..{high}")
        if self.chunk_bytes and not 256 <= self.chunk_bytes <= 2**24:
            raise ValueError(f"chunk_bytes: {self.chunk_bytes} is out of 256..{2**24}, and not 0, the measured rate's")
        if not 0 < self.timeout_s <= 86400:
            raise ValueError(f"timeout_s: {self.timeout_s} is no duration of 0 to 86400 seconds")
        if self.protocol not in ("auto", "5", "3.1.1"):
            raise ValueError(f"protocol: {self.protocol!r} is unknown; valid: auto, 5, 3.1.1")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_key: a certificate and its key go together; valid: both, or none")
        if self.password_file and not self.username:
            raise ValueError("username: a password needs a user name; valid: both, or none")


class Channel(Protocol):
    """One end of a run's message plane; use it as `async with`, which connects and announces this end as online.

    `name` is this end's client name ("server" for the server), `boot` a number of its own for this life of it.
    `last_heard` is the monotonic time of each peer's last chunk, whole message or not. `sent` and `received` count by
    message class name, repetitions and the channel's own credits included.
    """

    name: str
    boot: int
    sent: dict[str, Count]
    received: dict[str, Count]
    last_heard: dict[str, float]

    async def send(self, peer: str, message: Message) -> int:
        """Send; returns the bytes of the body when every chunk is acknowledged by the transport.

        An agent's only peer is "server". Messages to one peer on one topic go in the order of the calls, but for what a
        lost connection took, which comes later; different topics overtake each other. DeadlineError names the peer when
        nothing moves for `timeout_s`, WireError names the field of a message that cannot be encoded, ConnectError tells
        that the connection is lost for good.
        """
        ...

    async def receive(self) -> tuple[str, Message | Malformed]:
        """The next (sender, message), however long it takes; cancelling it loses nothing.

        ConnectError when the connection is lost for good and everything that had arrived has been received.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave: announced in order, or after an exception without a word, so that the last will speaks."""
        ...

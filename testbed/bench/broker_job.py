"""What a load process is told: one value for all roles, each of which reads what it needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from broker.engines import Address


@dataclass(frozen=True)
class Job:
    """`pid` is the broker's, `size` bytes a message, `warm` messages or rounds that come first and are not measured.

    `window` is how many messages may be published and not yet delivered. Who receives grants credit for them through
    the pipe `credit`, so that the broker does not carry it. `clients` are the numbers of connections to reach in
    turn, `bytes_per_s` is how fast a slow subscriber reads.
    """

    host: str
    port: int
    pid: int = 0
    topic: str = "bench/load"
    qos: int = 0
    size: int = 0
    messages: int = 0
    warm: int = 0
    window: int = 1
    credit: int = -1
    clients: tuple[int, ...] = ()
    bytes_per_s: int = 0
    seed: int = 0

    @property
    def address(self) -> Address:
        """Where the broker listens."""
        return Address(self.host, self.port)

    def encode(self) -> str:
        """As one argument of a command."""
        return json.dumps(asdict(self))


def decode(argument: str) -> Job:
    """The job that `encode` wrote."""
    fields = json.loads(argument)
    return Job(**fields | {"clients": tuple(fields["clients"])})

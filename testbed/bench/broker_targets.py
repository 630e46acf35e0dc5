"""What the embedded broker and the own client have to reach, judged by the worse end of each interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from testbed.bench.broker_rows import Key
from testbed.bench.broker_statistics import Interval

RATIO = "embedded/mosquitto"
VALUE = "embedded"
LARGE = ("64KB", "256KB", "1MB", "6MB")


@dataclass(frozen=True)
class Target:
    """A bound on one figure of a scope, a broker or a ratio of two; `relation` is ">=" or "<="."""

    scope: str
    key: Key
    relation: str
    bound: float

    def holds(self, interval: Interval) -> bool:
        """Whether the whole interval keeps the bound."""
        return interval.low >= self.bound if self.relation == ">=" else interval.high <= self.bound


TARGETS = (
    *(Target(RATIO, ("throughput", size, qos), ">=", 0.9) for size in LARGE for qos in ("qos0", "qos1")),
    *(Target(RATIO, ("cpu_per_gb", size, qos), "<=", 1.2) for size in LARGE for qos in ("qos0", "qos1")),
    Target(RATIO, ("round_trip", "200x100KB", "qos1"), "<=", 1.2),
    Target(VALUE, ("idle_mb", "1000"), "<=", 60),
    *(Target(VALUE, ("flood_peak_mb", "400x1MB", qos), "<=", 100) for qos in ("qos0", "qos1")),
    Target(VALUE, ("client_throughput", "256KB", "qos1"), ">=", 150),
)


def judge(scopes: Mapping[str, Mapping[Key, Interval]]) -> list[dict[str, Any]]:
    """The targets whose figure was measured: its interval, the bound, and whether it holds (`ok`)."""
    return [
        {
            "scope": target.scope,
            "figure": " ".join(target.key),
            "relation": target.relation,
            "bound": target.bound,
            **asdict(interval),
            "ok": target.holds(interval),
        }
        for target in TARGETS
        if (interval := scopes.get(target.scope, {}).get(target.key)) is not None
    ]

"""The measurements of one broker, made small."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import BrokerError
from testbed.bench.broker_rows import FULL, KINDS, SIZES, Figures, Row, Scale, flood, measured
from testbed.bench.broker_subjects import Subject, started
from testbed.bench.broker_targets import TARGETS

SMALL = Scale(part=100, idle=(2, 5), crowd=5, rounds=2, flood=30)

FIGURES = {
    "pair": {
        (figure, "64KB", qos)
        for figure in ("throughput", "cpu_per_gb", "latency_p50", "latency_p99")
        for qos in ("qos0", "qos1")
    },
    "idle": {("idle_mb", "2"), ("idle_mb", "5")},
    "round-trip": {("round_trip", "5x100KB", "qos1"), ("round_trip_p99", "5x100KB", "qos1")},
    "flood": {
        (figure, "30x1MB", qos) for figure in ("flood_peak_mb", "flood_fast_mb_per_s") for qos in ("qos0", "qos1")
    },
    "client": {("client_throughput", "256KB", "qos1")},
}


def take(rows: list[Row]) -> Figures:
    """All figures of the rows, each from a broker of its own."""

    async def scenario() -> Figures:
        figures: Figures = {}
        for row in rows:
            async with started("embedded") as subject:
                figures |= await measured(row, subject)
        return figures

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_its_figures(kind: str) -> None:
    figures = take(KINDS[kind](["64KB"], SMALL))
    assert set(figures) == FIGURES[kind]
    assert all(figure > 0 for figure in figures.values())


def test_every_target_is_about_a_figure_of_the_full_measurement() -> None:
    names = {row.name for kind in KINDS for row in KINDS[kind](list(SIZES), FULL)}
    for target in TARGETS:
        measurement, *rest = target.key
        last = " ".join(rest)
        if measurement == "idle_mb":
            assert int(last) in FULL.idle
        else:
            assert any(name.endswith(last) for name in names), target


@pytest.mark.slow
def test_the_slow_subscriber_of_a_flood_costs_the_broker_memory() -> None:
    with_slow = take([flood(0, Scale(flood=60))])
    few = take([flood(0, Scale(flood=12))])
    # 60 MB cannot pass at 1 Mbit/s in this time, so that they wait in the broker, or are dropped at its cap.
    assert with_slow["flood_peak_mb", "60x1MB", "qos0"] - few["flood_peak_mb", "12x1MB", "qos0"] > 25


def test_a_failure_names_broker_and_row() -> None:
    async def fail(_: Subject) -> Figures:
        raise BrokerError("the reason")

    with pytest.raises(BrokerError, match=r"^embedded, some row: the reason$"):
        take([Row("some row", fail)])

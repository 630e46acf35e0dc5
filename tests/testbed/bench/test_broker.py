"""`splitcom bench broker`: pairs, ratios, targets, and the command."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from testbed.__main__ import main
from testbed.bench import broker_subjects, broker_targets
from testbed.bench.broker import bench_broker, render, results, rows
from testbed.bench.broker_rows import FULL, SIZES, Figures, Row
from testbed.bench.broker_statistics import Interval
from testbed.bench.broker_subjects import Subject, installed
from testbed.bench.broker_targets import TARGETS, Target, judge
from tests.refusals import check_refused

needs_mosquitto = pytest.mark.skipif("mosquitto" not in installed(), reason="mosquitto is not installed")

KEY = ("throughput", "64KB", "qos1")


@needs_mosquitto
def test_each_row_is_measured_of_all_brokers_forwards_then_backwards() -> None:
    met: list[tuple[str, int]] = []

    async def measure(subject: Subject) -> Figures:
        met.append((subject.name, subject.usage.pid))
        return {KEY: float(len(met))}

    rows = [Row("one", measure), Row("two", measure)]
    result = asyncio.run(bench_broker(["embedded", "mosquitto"], rows, 2, lambda text: None))
    e, m = "embedded", "mosquitto"
    assert [name for name, _ in met] == [e, m, e, m, m, e, m, e]
    assert len({pid for _, pid in met}) == len(met), "a broker was used twice"
    assert [len(result["runs"][name]) for name in (e, m)] == [2, 2]


def two(embedded: list[float], mosquitto: list[float]) -> dict[str, Any]:
    return results({"embedded": [{KEY: value} for value in embedded], "mosquitto": [{KEY: v} for v in mosquitto]})


def test_ratios_are_found_by_their_path() -> None:
    d = json.loads(json.dumps(two([90.0, 50.0, 100.0], [100.0, 50.0, 100.0])))
    found = d["ratios"]["embedded/mosquitto"]["throughput"]["64KB"]["qos1"]
    assert (found["median"], found["low"], found["high"]) == (1.0, 0.9, 1.0)
    assert d["values"]["embedded"]["throughput"]["64KB"]["qos1"]["median"] == 90.0


def test_a_target_holds_only_if_the_worse_end_of_its_interval_does() -> None:
    assert [target["ok"] for target in two([95.0, 100.0, 95.0], [100.0, 100.0, 100.0])["targets"]] == [True]
    # The median would do.
    [target] = two([80.0, 95.0, 100.0], [100.0, 100.0, 100.0])["targets"]
    assert target["median"] >= target["bound"] > target["low"]
    assert not target["ok"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: " ".join((target.scope, *target.key)))
def test_each_target_is_judged_on_its_side(target: Target) -> None:
    good, bad = (1.05, 0.95) if target.relation == ">=" else (0.95, 1.05)
    for factor, ok in ((good, True), (bad, False)):
        value = factor * target.bound
        judged = judge({target.scope: {target.key: Interval(value, value, value)}})
        assert [found["ok"] for found in judged] == [ok]


def test_what_was_not_measured_is_not_judged() -> None:
    assert judge({"embedded/mosquitto": {}, "embedded": {}}) == []


def test_the_table_has_a_line_for_each_figure_and_each_target() -> None:
    result = {"brokers": ["embedded", "mosquitto"], **two([95.0, 100.0, 95.0], [100.0, 100.0, 100.0])}
    lines = render(result).splitlines()
    assert lines[2] == "| throughput 64KB qos1 | 95 | 100 | 0.95 (0.95 to 1) |"
    assert lines[-1] == "| embedded/mosquitto throughput 64KB qos1 | >= 0.9 | 0.95 (0.95 to 1) | pass |"


def test_sizes_come_in_their_order() -> None:
    names = [row.name for row in rows(["pair"], ["6MB", "1KB"], FULL)]
    assert names == ["1KB qos0", "1KB qos1", "6MB qos0", "6MB qos1"]
    assert len(rows(["pair"], list(SIZES))) == 10


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["bench", "broker", *arguments])


@needs_mosquitto
def test_a_run_gives_figures_and_ratios_as_json() -> None:
    done = invoke("--quick", "--json", "--rows", "pair", "--sizes", "64KB", "--brokers", "embedded,mosquitto")
    assert done.exit_code == 0, done.stderr
    d = json.loads(done.stdout)
    for figure in ("throughput", "cpu_per_gb", "latency_p50", "latency_p99"):
        for qos in ("qos0", "qos1"):
            found = d["ratios"]["embedded/mosquitto"][figure]["64KB"][qos]
            assert 0 < found["low"] <= found["median"] <= found["high"]
    assert (d["pairs"], len(d["targets"])) == (1, 4)


@pytest.mark.slow
def test_a_quick_run_measures_everything_that_is_installed() -> None:
    done = invoke("--quick", "--json")
    assert done.exit_code == 0, done.stderr
    d = json.loads(done.stdout)
    assert d["brokers"] == installed()
    for name in d["brokers"]:
        figures = d["values"][name]
        assert list(figures["throughput"]) == list(SIZES)
        assert {"idle_mb", "round_trip", "flood_peak_mb", "flood_fast_mb_per_s", "client_throughput"} < set(figures)


def test_checking_fails_where_a_target_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*targets: Target) -> int:
        monkeypatch.setattr(broker_targets, "TARGETS", targets)
        return int(invoke("--quick", "--rows", "client", "--brokers", "embedded", "--check").exit_code)

    client = ("client_throughput", "256KB", "qos1")
    easy, impossible = (Target("embedded", client, ">=", bound) for bound in (0.001, 1e9))
    assert check(easy) == 0
    assert check(easy, impossible) == 1
    assert check() == 1, "nothing was checked"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "2KB"], "--sizes: '2KB' is unknown; valid: 1KB, 64KB, 256KB, 1MB, 6MB"),
        (["--rows", "tea"], "--rows: 'tea' is unknown; valid: pair, idle, round-trip, flood, client"),
        (["--brokers", "embedded,emqx"], "--brokers: 'emqx' is unknown; valid: embedded, mosquitto, amqtt"),
    ],
)
def test_unknown_names_are_refused(arguments: list[str], said: str) -> None:
    check_refused(invoke(*arguments), said)


def test_a_broker_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker_subjects, "find_mosquitto", lambda: None)
    check_refused(invoke("--brokers", "embedded,embedded"), "embedded is named more than once; valid: each broker once")
    check_refused(invoke("--brokers", "embedded,mosquitto"), "mosquitto is not installed; valid here: embedded")
    assert installed() == ["embedded"]

"""The measurements of `splitcom bench links`, made short."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.congestion import system_default
from testbed.bench import links
from testbed.bench.links import Bench, bench_links, made_traces
from testbed.links import registry
from tests.testbed.links.needs import needs


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "SECONDS", 0.2)
    monkeypatch.setattr(links, "RATES_MBIT", (20,))
    monkeypatch.setattr(links, "MANY", 2)
    monkeypatch.setattr(links, "DELAYS_MS", (0, 20))
    monkeypatch.setattr(links, "MESSAGES", 5)


@pytest.mark.slow
def test_a_back_end_without_packets_has_rows_of_all_that_it_can_do() -> None:
    said: list[str] = []
    rows = asyncio.run(Bench("proxy", system_default(), 1, said.append).run())
    kinds = [row.what.split()[0].rstrip(",") for row in rows]
    assert kinds == ["completion", "completion", "completion", "steps", "delay", "upload"]
    assert [row.clients for row in rows[:3]] == [1, 2, 2]
    assert len(said) == len(rows)
    delay = next(row for row in rows if row.what.startswith("delay"))
    assert delay.unit == "ms"
    assert abs(delay.median) < 20
    assert not [owner for owner in registry.owners() if owner.name.startswith("bench") and not owner.alive]


@pytest.mark.slow
@needs("tun")
def test_losses_are_held_against_the_formula_for_reno_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "LOSSES_PERCENT", (3,))
    monkeypatch.setattr(links, "LOSSY_SECONDS", 1.0)
    [reno] = asyncio.run(Bench("tun", "reno", 1, lambda _: None).losses())
    assert reno.bound is not None
    assert "by the formula 1.6" in reno.note
    [other] = asyncio.run(Bench("tun", system_default(), 1, lambda _: None).losses())
    assert other.bound is None or system_default() == "reno"


def test_what_cannot_be_had_is_left_out_with_its_reason() -> None:
    said: list[str] = []
    result = bench_links(["proxy"], ["nonsense"], ["delays"], 1, said.append)
    assert "congestion: 'nonsense'" in result["left_out"]["nonsense"]
    assert result["rows"] == []
    assert said == [f"nonsense: {result['left_out']['nonsense']}"]


def test_the_traces_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (made_traces(tmp_path / name) for name in ("a", "b"))
    assert first[0] == second[0]
    assert (tmp_path / "a" / "trace").read_text() == (tmp_path / "b" / "trace").read_text()

"""`splitcom bench soak`: clients that come and go in every way, and what makes a broker not flat."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from broker.errors import BrokerError
from testbed.__main__ import main
from testbed.bench import broker_soak
from testbed.bench.broker_churn import ENDS
from testbed.bench.broker_soak import Sample, bench_soak, render, verdict
from testbed.bench.broker_subjects import Subject, started
from testbed.bench.broker_usage import Usage
from tests.refusals import check_refused

DONE = {"connected": 100}
DEEDS = (
    "connected",
    "wills",
    "retained",
    *ENDS,
    *(f"{what} with QoS {q}" for what in ("published", "received") for q in (0, 1, 2)),
)


def samples(mb_per_minute: float, minutes: int = 30, jump_mb: float = 0.0) -> list[Sample]:
    """One each 10 s, with a saw-tooth of 1 MB; what jumps does so in the first minute."""
    times = [number / 6 for number in range(6 * minutes)]
    return [
        Sample(t, 30 + mb_per_minute * t + (number % 7) / 7 + jump_mb * (t >= 1), 57) for number, t in enumerate(times)
    ]


def test_memory_that_comes_and_goes_is_flat() -> None:
    found = verdict(samples(0.0), 7, 7, DONE)
    assert found["ok"]
    assert found["slope_mb_per_minute"]["low"] < 0 < found["slope_mb_per_minute"]["high"]


def test_memory_that_grows_slowly_is_found_in_half_an_hour() -> None:
    found = verdict(samples(0.15), 7, 7, DONE)
    assert not found["ok"]
    assert found["slope_mb_per_minute"]["mean"] == pytest.approx(0.15, abs=0.02)
    assert "memory has grown" in found["problems"][0]


def test_what_fills_up_at_the_beginning_is_no_growth() -> None:
    assert verdict(samples(0.0, jump_mb=20.0), 7, 7, DONE)["ok"]


@pytest.mark.parametrize(
    ("after", "counts", "said"),
    [
        (9, DONE, "9 descriptors are open at rest, 7 before the load"),
        (7, {"connected": 100, "refused": 2}, "2 connections were refused"),
        (7, {}, "no client was connected"),
    ],
)
def test_other_problems(after: int, counts: dict[str, int], said: str) -> None:
    found = verdict(samples(0.0), 7, after, counts)
    assert found["problems"] == [said]
    assert not found["ok"]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["bench", "soak", *arguments])


@pytest.mark.slow
def test_a_short_soak_does_everything_and_leaves_no_descriptor() -> None:
    done = invoke("--minutes", "0.15", "--every", "0.5", "--clients", "40", "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 1 - result["ok"], done.stderr
    assert [deed for deed in DEEDS if not result["counts"].get(deed)] == []
    assert "refused" not in result["counts"]
    assert len(result["samples"]) == 18
    assert max(sample["descriptors"] for sample in result["samples"]) > result["descriptors"]["before"] + 20
    assert result["descriptors"]["at_rest"] == result["descriptors"]["before"]


@pytest.mark.slow
def test_the_embedded_broker_is_flat_over_two_minutes() -> None:
    result = asyncio.run(bench_soak("embedded", 50, 2.0, 2.0, 1, lambda text: None))
    assert [deed for deed in DEEDS if not result["counts"].get(deed)] == []
    assert "broken" not in result["counts"]
    assert result["ok"], render(result)


@pytest.mark.slow
def test_what_leaks_descriptors_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(Usage):
        """Counts one descriptor more each time it is asked."""

        asked = 0

        def descriptors(self) -> int:
            self.asked += 1
            return super().descriptors() + self.asked

    monkeypatch.setattr(broker_soak, "REST_S", 0.0)
    monkeypatch.setattr("testbed.bench.broker_subjects.Usage", Leaky)
    done = invoke("--minutes", "0.05", "--every", "0.5", "--clients", "3")
    assert done.exit_code == 1
    assert "descriptors are open at rest" in done.stdout


def test_a_broker_that_dies_ends_the_soak_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subjects: list[Subject] = []
    said: list[str] = []

    @asynccontextmanager
    async def kept(name: str) -> AsyncIterator[Subject]:
        async with started(name) as subject:
            subjects.append(subject)
            yield subject

    def kill(text: str) -> None:
        said.append(text)
        os.kill(subjects[0].usage.pid, signal.SIGKILL)

    monkeypatch.setattr(broker_soak, "started", kept)
    with pytest.raises(BrokerError, match=r"^churn: client \d+: no connection|^process \d+ has ended"):
        asyncio.run(bench_soak("embedded", 5, 60.0, 0.5, 0, kill))
    assert len(said) <= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0.1"], "0.1 minutes: too short; valid: 4 samples of 10 s or more"),
        (["--minutes", "inf"], "inf minutes with samples of 10 s: no time that ends; valid: numbers"),
        (["--minutes", "nan"], "nan minutes with samples of 10 s: no time that ends; valid: numbers"),
        (
            ["--broker", "embedded,mosquitto"],
            "broker 'embedded,mosquitto' is unknown; valid: one of embedded, mosquitto",
        ),
        (["--broker", "emqx"], "--broker: 'emqx' is unknown; valid: embedded, mosquitto, amqtt"),
    ],
)
def test_what_cannot_be_soaked_is_refused(arguments: list[str], said: str) -> None:
    check_refused(invoke(*arguments), said)

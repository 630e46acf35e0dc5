"""The measuring processes as a whole: they start, share or do not share a clock, and end together."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from testbed.links.driver import READY_S, Ends

LOCAL = "127.0.0.1"
AHEAD_S = 86_400.0
ELSEWHEN = ("unshare", "--time", "--monotonic", f"{AHEAD_S:.0f}")  # another CLOCK_MONOTONIC, as on another machine
MANY, MESSAGES = 12, 250
elsewhen = pytest.mark.skipif(
    subprocess.run([*ELSEWHEN, "true"], check=False, capture_output=True).returncode != 0,
    reason="a time namespace cannot be made",
)


def test_all_processes_are_gone_when_it_is_left(tmp_path: Path) -> None:
    async def measure() -> list[int]:
        async with Ends(tmp_path / "log") as ends:
            driver, server = await ends.serve((), LOCAL, 0, "")
            names = [f"client{number}" for number in range(MANY)]
            for name in names:
                await ends.join((), server, name, "")
            assert await driver.missing(names, READY_S) == []
            return [process.pid for process in ends._started]

    pids = asyncio.run(measure())
    assert len(pids) == MANY + 1
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_joined_ends_have_no_terminal_and_no_pipe_to_fill(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def look() -> list[str]:
        async with Ends(log) as ends:
            _, server = await ends.serve((), LOCAL, 0, "")
            await ends.join((), server, "client", "")
            return [os.readlink(f"/proc/{ends._started[-1].pid}/fd/{number}") for number in range(3)]

    assert asyncio.run(look()) == ["/dev/null", str(log), str(log)]


def test_answers_of_many_clients_arrive_whole(tmp_path: Path) -> None:
    async def measure() -> dict[str, dict[str, list[float]]]:
        async with Ends(tmp_path / "log") as ends:
            driver, server = await ends.serve((), LOCAL, 0, "")
            names = [f"client{number}" for number in range(MANY)]
            for name in names:
                await ends.join((), server, name, "")
            assert await driver.missing(names, READY_S) == []
            return await driver.delays({name: {"count": MESSAGES} for name in names}, 60.0)

    answers = asyncio.run(measure())
    assert {len(times) for ways in answers.values() for times in ways.values()} == {MESSAGES}


@elsewhen
def test_delays_are_right_where_clocks_differ(tmp_path: Path) -> None:
    async def measure() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        async with Ends(tmp_path / "log") as ends:
            driver, server = await ends.serve((), LOCAL, 0, "")
            await ends.join(ELSEWHEN, server, "client", "")
            assert await driver.missing(["client"], READY_S) == []
            before = await driver.delays({"client": {"count": 20}}, 60.0)
            own = await driver.synchronise(["client"], 20)
            assert 0 < own["client"] < 1
            return before["client"], (await driver.delays({"client": {"count": 20}}, 60.0))["client"]

    began = time.monotonic()
    raw, times = asyncio.run(measure())
    assert raw["up"][0] == pytest.approx(-AHEAD_S, abs=1)
    assert raw["down"][0] == pytest.approx(AHEAD_S, abs=1)
    for way in ("up", "down"):
        assert all(abs(seconds) < time.monotonic() - began for seconds in times[way])

"""What is asked of an emulator and what comes back, also where something went wrong before."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from testbed.links import emulator_process
from testbed.links.emulator_process import EmulatorProcess
from testbed.links.errors import LinkError
from testbed.links.profile import parse

T = TypeVar("T")
CLIENT = {"profile": parse("up=5mbit").table(), "seed": 0}
OPEN = {"do": "open", "congestion": "", "clients": {"a": CLIENT}}


def with_one(directory: Path, work: Callable[[EmulatorProcess], Awaitable[T]]) -> T:
    async def go() -> T:
        async with EmulatorProcess("proxy", directory / "log") as emulator:
            return await work(emulator)

    return asyncio.run(asyncio.wait_for(go(), 60))


def pid(emulator: EmulatorProcess) -> int:
    assert emulator._process is not None
    return emulator._process.pid


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(tmp_path: Path) -> None:
    async def work(emulator: EmulatorProcess) -> dict[str, Any]:
        await emulator.ask(OPEN)
        os.kill(pid(emulator), signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await emulator.ask({"do": "nonsense"})
        os.kill(pid(emulator), signal.SIGCONT)
        return await emulator.ask({"do": "counters"})

    assert set(with_one(tmp_path, work)["clients"]) == {"a"}


def test_no_answer_in_time_is_an_error_that_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator_process, "ANSWER_S", 0.1)
    monkeypatch.setattr(emulator_process, "END_S", 0.1)

    async def work(emulator: EmulatorProcess) -> None:
        os.kill(pid(emulator), signal.SIGSTOP)
        await emulator.ask({"do": "counters"})

    with pytest.raises(LinkError, match="the proxy emulator gave 'counters' no answer in"):
        with_one(tmp_path, work)


def test_the_last_line_of_a_dead_one_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("an older one's last words\n")

    async def work(emulator: EmulatorProcess) -> None:
        os.kill(pid(emulator), signal.SIGKILL)
        await emulator.ask({"do": "counters"})

    with pytest.raises(LinkError, match="the proxy emulator ended: it said nothing"):
        with_one(tmp_path, work)


def test_an_open_that_failed_may_be_tried_again(tmp_path: Path) -> None:
    async def work(emulator: EmulatorProcess) -> dict[str, Any]:
        with pytest.raises(LinkError, match="congestion: 'nosuch'"):
            await emulator.ask(OPEN | {"congestion": "nosuch"})
        return await emulator.ask(OPEN)

    assert set(with_one(tmp_path, work)["ports"]) == {"a"}


@pytest.mark.parametrize(
    "command",
    [
        {"do": "open", "congestion": "", "clients": ["a"]},
        {"do": "open", "congestion": "", "clients": {"a": 5}},
        {"do": "open", "congestion": "", "clients": {"a": CLIENT | {"profile": "5mbit"}}},
        {"do": "open", "congestion": 5, "clients": {"a": CLIENT}},
        {"do": ["open"]},
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_and_ends_nothing(tmp_path: Path, command: dict[str, Any]) -> None:
    async def work(emulator: EmulatorProcess) -> dict[str, Any]:
        with pytest.raises(LinkError) as refusal:
            await emulator.ask(command)
        assert str(refusal.value)
        assert "\n" not in str(refusal.value)
        return await emulator.ask(OPEN)

    assert set(with_one(tmp_path, work)["ports"]) == {"a"}


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 0), ("127.0.0.1", 65536), ("127.0.0.1", "http"), (5, 80)])
def test_a_target_that_is_none_is_refused(tmp_path: Path, host: Any, port: Any) -> None:
    async def work(emulator: EmulatorProcess) -> None:
        await emulator.ask(OPEN)
        await emulator.ask({"do": "target", "host": host, "port": port})

    with pytest.raises(LinkError, match="no target; valid: a host, and a port from 1 to 65535"):
        with_one(tmp_path, work)


def test_it_is_ended_even_where_it_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator_process, "END_S", 0.1)

    async def work(emulator: EmulatorProcess) -> int:
        os.kill(pid(emulator), signal.SIGSTOP)
        return pid(emulator)

    number = with_one(tmp_path, work)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_an_emulator_of_no_kind_is_refused() -> None:
    command = [sys.executable, "-m", "testbed.links.emulator", "pigeon"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert "'tun', 'proxy'" in ended.stderr


def test_an_emulator_that_ends_is_told_to_who_watches_it(tmp_path: Path) -> None:
    async def work(emulator: EmulatorProcess) -> None:
        await emulator.ask(OPEN)
        watching = asyncio.create_task(emulator.watch())
        os.kill(pid(emulator), signal.SIGKILL)
        await watching

    with pytest.raises(LinkError, match="the proxy emulator ended"):
        with_one(tmp_path, work)

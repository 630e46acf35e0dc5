"""The emulators' program: an answer to every line, and an end whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.links.emulator_process import EmulatorProcess
from testbed.links.errors import LinkError
from testbed.links.profile import parse

CLIENTS = {"agent0": {"profile": parse("up=5mbit").table(), "seed": 0}}
OPEN = {"do": "open", "congestion": "", "clients": CLIENTS}


@pytest.fixture
def program() -> Any:
    command = [sys.executable, "-m", "testbed.links.emulator", "proxy"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()


def say(program: Any, line: str) -> dict[str, Any]:
    program.stdin.write(line + "\n")
    program.stdin.flush()
    answer: dict[str, Any] = json.loads(program.stdout.readline())
    return answer


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Expecting property name"),
        ('{"do": "dance"}', "'dance' is no command; valid: open, target, set, counters"),
        ("{}", "'do' is missing"),
        ('{"do": "counters"}', "no links are open"),
        ('{"do": "target", "host": "127.0.0.1", "port": 1}', "only a proxy that is open has a target"),
        ('{"do": "open", "congestion": ""}', "'clients' is missing"),
    ],
)
def test_a_line_that_is_no_command_is_answered_and_the_next_one_too(program: Any, line: str, said: str) -> None:
    answer = say(program, line)
    assert answer["ok"] is False
    assert said in answer["error"]
    assert say(program, json.dumps(OPEN))["ok"] is True
    assert say(program, json.dumps(OPEN)) == {"ok": False, "error": "the links are open already"}


def test_it_tells_where_it_listens_and_which_priority_it_got(program: Any) -> None:
    answer = say(program, json.dumps(OPEN))
    assert set(answer["ports"]) == {"agent0"}
    assert answer["priority"] in ("fifo", "nice", "none")


def test_it_ends_with_its_standard_input(program: Any) -> None:
    say(program, json.dumps(OPEN))
    program.stdin.close()
    assert program.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_a_signal(program: Any, number: signal.Signals) -> None:
    say(program, json.dumps(OPEN))
    program.send_signal(number)
    assert program.wait(10) == 0


def test_an_emulator_that_was_killed_is_named(tmp_path: Path) -> None:
    async def work() -> None:
        async with EmulatorProcess("proxy", tmp_path / "log") as emulator:
            await emulator.ask(OPEN)
            assert emulator._process is not None
            os.kill(emulator._process.pid, signal.SIGKILL)
            await emulator.ask({"do": "counters"})

    with pytest.raises(LinkError, match="the proxy emulator ended"):
        asyncio.run(work())

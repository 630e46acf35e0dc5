"""The program `python -m broker` as a process: settings, events, bad input, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from broker.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPLITCOM_BROKER_")}
    return {**kept, **extra}


@contextmanager
def program(*arguments: str, **extra: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(**extra),
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def event(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    parsed: dict[str, Any] = json.loads(process.stdout.readline())
    return parsed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_announces_its_address_and_ends_with_a_summary(number: signal.Signals) -> None:
    with program("--events", "--port", "0") as process:
        ready = event(process)
        assert (ready["event"], ready["host"]) == ("ready", "127.0.0.1")
        assert ready["port"] > 0
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert errors == ""
    summary = json.loads(output)
    assert summary["event"] == "summary"
    assert summary["totals"]["connections"] == 0


def test_a_sighup_before_it_is_ready_is_answered_when_it_is() -> None:
    """Sent when the broker has read its files and is about to listen."""
    early = """
import os, signal
import broker.__main__ as program
class Early(program.Broker):
    async def __aenter__(self):
        os.kill(os.getpid(), signal.SIGHUP)
        return await super().__aenter__()
program.Broker = Early
program.main(["--events", "--port", "0"])
"""
    with subprocess.Popen([sys.executable, "-c", early], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert [event(process)["event"] for _ in range(2)] == ["ready", "reloaded"]
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_an_attached_broker_ends_with_its_parent() -> None:
    with program("--events", "--attached", "--port", "0") as process:
        event(process)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


@pytest.mark.parametrize("redirected", ["</dev/null", "<&-", "<pyproject.toml"])
def test_an_input_that_cannot_end_is_refused(redirected: str) -> None:
    command = f"exec {sys.executable} -m broker --attached --port 0 {redirected}"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --attached: standard input is closed or a file; valid: a pipe or a terminal\n"


def test_without_events_it_writes_lines_for_people() -> None:
    with program("--port", "0") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert "ready" in line
    assert "127.0.0.1" in line
    assert output == ""


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('host = "127.0.0.3"\nport = 1\nqueue_bytes = 4096\n')
    arguments = ("--events", "--config", str(file), "--port", "0")
    with program(*arguments, SPLITCOM_BROKER_HOST="127.0.0.2", SPLITCOM_BROKER_PORT="2") as process:
        ready = event(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert ready["host"] == "127.0.0.2"
    assert ready["port"] > 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "port: 70000"),
        (["--port", "x"], "'x' is not a valid integer"),
        (["--host", "0.0.0.0"], "insecure = true"),
        (["--set", "queue_bytes"], "valid: key=value"),
        (["--set", "quota=1"], "quota: unknown key"),
        (["--set", "queue_bytes=many"], "queue_bytes: 'many'"),
        (["--config", "no-such-file.toml"], "no-such-file.toml: No such file"),
        (["--bogus"], "--bogus"),
        (["extra"], "extra"),
        (["--host", "192.0.2.1", "--insecure", "--port", "0"], "192.0.2.1:0"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(arguments: list[str], said: str) -> None:
    with program(*arguments) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert said in errors


def test_a_variable_that_is_unknown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_BROKER_PROT", "1")
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert "SPLITCOM_BROKER_PROT is unknown; nearest: SPLITCOM_BROKER_PORT" in result.output


def test_it_can_be_a_subcommand_of_another_program() -> None:
    group = click.Group("splitcom", {"broker": main})
    result = CliRunner().invoke(group, ["broker", "--port", "none"])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert "--insecure" in CliRunner().invoke(group, ["broker", "--help"]).output

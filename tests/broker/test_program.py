"""What the programs have in common: errors and usage in one line, events, and an end that comes at once."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from broker.errors import BrokerError, DeadlineError
from broker.program import INTERRUPTED, OneLine, emitter, one_line_errors, overrides
from broker.server import BrokerConfig

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60

WORKER = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
from broker.program import run

async def main():
    compute = ThreadPoolExecutor(1)
    try:
        print("up", flush=True)
        await asyncio.get_running_loop().run_in_executor(compute, threading.Event().wait)  # nothing interrupts this
    finally:
        compute.shutdown(wait=False)
        print("cleaned up")

run(main(), attached="attached" in sys.argv)
"""


@contextmanager
def worker(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that computes for ever, ready to be stopped."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_program_cleans_up_and_does_not_wait_for_its_computing(number: signal.Signals) -> None:
    with worker() as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert (output, process.returncode) == ("cleaned up\n", INTERRUPTED)


def test_an_attached_program_ends_with_its_standard_input() -> None:
    with worker("attached") as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert (output, process.returncode) == ("cleaned up\n", INTERRUPTED)


def test_an_input_that_cannot_end_is_refused() -> None:
    command = [sys.executable, "-c", WORKER, "attached"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("broker.errors.SettingsError: --attached: standard input is closed")


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (BrokerError("host\nis  gone"), "error: host is gone\n", 2),
        (DeadlineError("client a is silent"), "error: client a is silent\n", 1),
        (KeyError("entry"), "error: 'entry'\n", 2),
        (FileNotFoundError(2, "No such file or directory", "x.toml"), "error: x.toml: No such file or directory\n", 2),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [BrokerError("inner")])]), "error: inner\n", 2),
    ],
)
def test_errors_become_one_line_and_a_status(
    error: Exception, line: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors(KeyError):
        raise error
    assert caught.value.code == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError("no file in it")])
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), one_line_errors():
        raise error


@click.group(cls=type("Group", (OneLine, click.Group), {}))
def tool() -> None:
    """A program with a subcommand."""


@tool.command()
@click.option("--number", type=int, required=True)
def go(number: int) -> None:
    """Say the number."""
    click.echo(number)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bogus"], "'--bogus'"),
        (["stay"], "'stay'; valid: go"),
        (["go", "--number", "x"], "'--number'"),
        (["go"], "'--number'"),
        (["go", "--numbre", "1"], "'--numbre'. Did you mean '--number'?"),
        (["go", "--number", "1", "more"], "(more)"),
    ],
)
def test_wrong_usage_is_told_in_one_line_also_of_a_subcommand(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(tool, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def test_right_usage_and_help_are_left_alone() -> None:
    assert CliRunner().invoke(tool, ["go", "--number", "3"]).stdout == "3\n"
    assert "Commands:" in CliRunner().invoke(tool, ["--help"]).stdout
    assert "Commands:" in CliRunner().invoke(tool, []).output


def test_events_for_a_parent_are_json_lines_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    emitter("server", True)({"event": "step", "loss": 0.125, "text": "two\nlines"})
    said, errors = capsys.readouterr()
    assert json.loads(said) == {"event": "step", "loss": 0.125, "text": "two\nlines"}
    assert (said.count("\n"), errors) == (1, "")


def test_events_for_a_person_are_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    emit = emitter("server", False)
    emit({"event": "begin", "clients": ["a", "b"], "perplexity": 431.22746655142817, "counts": {"of": "a machine"}})
    emit({"event": "warning", "text": "step 3 refused"})
    emit({"event": "stopped", "ledger": {}})
    emit({"event": "reloaded"})
    said, errors = capsys.readouterr()
    assert said == ""
    assert (
        errors == "server: begin: clients=a,b perplexity=431.227\nserver: warning: step 3 refused\nserver: reloaded\n"
    )


def test_a_flag_that_was_not_given_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_PORT", "5")
    assert overrides(BrokerConfig, "T_", {"port": None, "host": None}, ["host=h"]) == {"port": "5", "host": "h"}
    assert overrides(BrokerConfig, "T_", {"port": 7}) == {"port": "7"}


@pytest.mark.parametrize("module", [["broker"], ["testbed", "broker"]])
def test_a_port_in_use_is_named(module: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", *module, "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=ROOT,
            check=False,
        )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"

"""`splitcom study run`: what a killed, interrupted or repeated study leaves, with processes that stand in for runs."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner, Result

from testbed.__main__ import main
from testbed.study import process
from testbed.study.results import appending, read
from tests.refusals import check_refused, enter
from tests.study_program import HELD, MEETS, MET, REFUSED

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, str(ROOT / "tests" / "study_program.py"))
THRESHOLD = "streams.activation_up.threshold"
PATIENCE_S = 60.0  # for a whole study on a busy machine
ENDS_S = 10.0  # the longest that a run may outlive its study
STUDY = """
import os, signal, sys
from testbed.__main__ import main
from testbed.study import process, results

process.PROGRAM = tuple(sys.argv[1:3])
dies_at = int(sys.argv[3])
written = 0
write = os.write

def dying_write(descriptor, data):
    global written
    written += 1
    if written == dies_at:
        write(descriptor, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(descriptor, data)

results.os = type("Patched", (), {name: getattr(os, name) for name in dir(os)} | {"write": staticmethod(dying_write)})
main(sys.argv[4:], prog_name="splitcom")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, where runs are carried out by the program that stands in for them."""
    enter(tmp_path, "SPLITCOM_", monkeypatch)
    monkeypatch.setattr(process, "PROGRAM", PROGRAM)
    return tmp_path


def plan(*seeds: int, thresholds: tuple[float, ...] = (0.5,), **study: Any) -> None:
    """A plan with a method per threshold, in the working directory."""
    runs = [{"name": f"gated-{t:g}", "scenarios": ["splitcom"], "set": {THRESHOLD: t}} for t in thresholds]
    table = {"study": {"name": "s", **study}, "axes": {"seed": list(seeds)}, "runs": runs}
    Path("plan.toml").write_text(tomli_w.dumps(table))


def study(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["study", *arguments], prog_name="splitcom")


def run(*arguments: str) -> Result:
    return study("run", "plan.toml", "--results", "r.jsonl", *arguments)


@contextmanager
def started(*arguments: str, dies_at: int = 0) -> Iterator[subprocess.Popen[str]]:
    """`splitcom study run` as a process; it kills itself in the middle of line number `dies_at`."""
    command = [sys.executable, "-c", STUDY, *PROGRAM, str(dies_at)]
    command += ["study", "run", "plan.toml", "--results", "r.jsonl", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def held() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A study in the middle of its second run, which waits; the study's process and a pidfd of the run's."""
    plan(0, HELD, 2)
    Path("hold").touch()
    os.mkfifo("telephone")
    with started() as running:
        child = os.pidfd_open(int(Path("telephone").read_text()))
        try:
            yield running, child
            assert select.select([child], [], [], ENDS_S)[0], "the run outlived its study"
            assert Path("let-go").exists(), "the run was killed"
        finally:
            os.close(child)
    Path("hold").unlink()


def seeds() -> list[str]:
    """The seeds in the results file, in its order; every line of it has to be whole."""
    lines, unfinished = read(Path("r.jsonl"))
    assert unfinished == 0
    return [line["place"]["seed"] for line in lines]


def executed() -> list[dict[str, Any]]:
    """What was started, in order."""
    return [json.loads(line) for line in Path("started").read_text().splitlines()]


def executed_seeds() -> list[str]:
    return [word.partition("=")[2] for e in executed() for word in e["arguments"] if word.startswith("training.seed=")]


def test_every_run_becomes_a_line_and_a_second_start_has_nothing_to_do(here: Path) -> None:
    plan(0, 1, thresholds=(0.5, 0.25))
    assert run().exit_code == 0
    lines, _ = read(Path("r.jsonl"))
    assert [(line["method"], line["place"]["seed"]) for line in lines] == [
        ("gated-0.5", "0"),
        ("gated-0.25", "0"),
        ("gated-0.5", "1"),
        ("gated-0.25", "1"),
    ]
    last = lines[-1]
    assert last["key"] == "s/gated-0.25/data=builtin,seed=1,shape=standard"
    assert (last["summary"]["perplexity"], last["summary"]["total_bytes"]) == (11.0, 1250)
    assert (last["epochs"]["perplexity"], last["epochs"]["skip_ratio"]["activation_up"]) == ([12.0, 11.0], [0.0, 1.0])
    assert (last["threads"], last["base"], last["versions"]) == (1, "micro", {"splitcom": "0"})
    assert last["settings"]["streams"]["activation_up"]["threshold"] == 0.25
    assert 0 < last["cpu_s"] < PATIENCE_S
    again = run()
    assert again.exit_code == 0
    assert again.stderr == "s: 0 of 4 runs to do\n"
    assert len(executed()) == 4


def test_a_study_killed_in_the_middle_of_a_line_goes_on_where_it_stopped(here: Path) -> None:
    plan(0, 1, 2)
    with started(dies_at=2) as running:
        assert running.wait(PATIENCE_S) == -signal.SIGKILL
    assert not Path("r.jsonl").read_bytes().endswith(b"\n")
    lines, unfinished = read(Path("r.jsonl"))
    assert ([line["place"]["seed"] for line in lines], unfinished > 0) == (["0"], True)
    result = run()
    assert result.exit_code == 0
    assert f"s: dropped an unfinished line of {unfinished} bytes at the end of r.jsonl\n" in result.stderr
    assert seeds() == ["0", "1", "2"]
    assert executed_seeds() == ["0", "1", "1", "2"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_study_that_ends_between_two_lines_takes_its_run_along_and_goes_on(
    number: int, status: int, here: Path
) -> None:
    with held() as (running, _):
        running.send_signal(number)
        assert running.wait(PATIENCE_S) == status
        assert running.stderr is not None
        said = running.stderr.read()
    assert ("s: interrupted after 1 of 3 runs; a second start goes on" in said) == (number == signal.SIGINT)
    assert seeds() == ["0"]
    assert run().exit_code == 0
    assert seeds() == ["0", str(HELD), "2"]
    assert executed_seeds() == ["0", str(HELD), str(HELD), "2"]


def test_a_run_that_does_not_listen_is_killed_at_the_second_cancellation(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo("telephone")
    code = "import os, signal; open('telephone', 'w').write(str(os.getpid())); signal.pause()"

    async def cancelled_twice() -> None:
        running = asyncio.create_task(process.run([], Path("log"), 1))
        child = os.pidfd_open(int(await asyncio.to_thread(Path("telephone").read_text)))
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert select.select([child], [], [], 0)[0]
        os.close(child)

    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-c", code))
    asyncio.run(asyncio.wait_for(cancelled_twice(), PATIENCE_S))


def test_a_results_file_has_one_study_at_a_time(here: Path) -> None:
    plan(0)
    with appending(Path("r.jsonl")):
        check_refused(run(), "r.jsonl: another study is at work on it; valid: a file of its own for each")
    assert not Path("started").exists()


def test_a_run_that_fails_is_told_and_the_others_are_carried_out(here: Path) -> None:
    plan(0, REFUSED, 2)
    result = run()
    assert result.exit_code == 1
    assert "data.path: nowhere is not a directory (exit status 1)" in result.stderr
    assert result.stderr.splitlines()[-1] == (
        f"error: 1 runs failed: s/gated-0.5/data=builtin,seed={REFUSED},shape=standard"
    )
    assert seeds() == ["0", "2"]
    assert run().exit_code == 1
    assert executed_seeds()[3:] == [str(REFUSED)]


def test_a_run_that_leaves_no_summary_has_failed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-c", "pass"))
    plan(0)
    result = run()
    assert result.exit_code == 1
    assert "summary.json: No such file or directory; valid: the directory of a finished run" in result.stderr
    assert seeds() == []


def test_runs_are_carried_out_side_by_side(here: Path) -> None:
    os.mkfifo("meeting")
    plan(MEETS, MET)
    assert run("--jobs", "2").exit_code == 0  # each of the two waits for the other
    assert sorted(seeds()) == [str(MEETS), str(MET)]


def test_a_changed_recipe_is_carried_out_again(here: Path) -> None:
    plan(0, 1)
    assert run().exit_code == 0
    plan(0, 1, set={"training.epochs": 3})
    assert "missing" in run("--dry-run").stdout
    assert run("--only", "seed=1").exit_code == 0
    assert seeds() == ["0", "1", "1"]
    assert study("status", "plan.toml", "--results", "r.jsonl").stdout.startswith("s: 1 of 2 runs done")
    plan(0, 1)
    assert [line.partition(":")[0] for line in run("--dry-run").stdout.splitlines()[::2]] == ["done", "missing"]


def test_a_dry_run_prints_the_command_of_each_run_and_carries_nothing_out(here: Path) -> None:
    plan(0, 1, scenarios=["e2e"])
    given = ["--model", "a base", "--data", "texts", "--threads", "2"]
    assert run("--only", "seed=1", *given).exit_code == 0
    printed = run(*given, "--dry-run").stdout.splitlines()
    assert [line.partition(":")[0] for line in printed[::2]] == ["missing", "done"]
    words = shlex.split(printed[3])
    assert words[:4] == ["splitcom", "run", "e2e", "splitcom"]
    assert words[-4:] == ["--model", "a base", "--data", "texts"]
    assert [started["arguments"][:-2] for started in executed()] == [words[1:]]
    assert executed()[0]["arguments"][-2] == "--out"


def test_a_data_directory_is_for_sets_that_have_files(here: Path) -> None:
    plan(0)
    assert run("--data", "texts").exit_code == 0
    assert "--data" not in executed()[0]["arguments"]


def test_settings_in_the_environment_do_not_reach_the_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_RUN_TRAINING_EPOCHS", "99")
    monkeypatch.setenv("SPLITCOM_CACHE", "cache")
    plan(0)
    assert run("--threads", "3").exit_code == 0
    assert (executed()[0]["environment"], executed()[0]["threads"]) == (["SPLITCOM_CACHE"], "3")


def test_run_directories_are_kept_when_asked_for_and_never_written_twice(here: Path) -> None:
    plan(0)
    assert run("--keep", "kept").exit_code == 0
    Path("r.jsonl").unlink()
    assert run("--keep", "kept").exit_code == 0
    names = sorted(path.name for path in Path("kept").iterdir() if path.is_dir())
    assert len(names) == 2
    assert names[0].startswith("s-gated-0.5-data-builtin-seed-0-shape-standard-")
    assert names[1] == f"{names[0]}-1"
    assert all((Path("kept") / name / "summary.json").is_file() for name in names)


def test_no_run_is_started_after_the_limit(here: Path) -> None:
    plan(0, 1)
    result = run("--limit-hours", "0")
    assert result.exit_code == 0
    assert result.stderr.endswith("s: 2 runs not started: the limit of 0 h is over\n")
    assert not Path("started").exists()


def test_a_file_made_on_another_base_is_refused(here: Path) -> None:
    plan(0, 1)
    assert run("--model", "models/small", "--only", "seed=0").exit_code == 0
    check_refused(run("--model", "models/large"), "was carried out on small, not on large; valid: the same base, or")
    assert run("--model", "elsewhere/small").exit_code == 0
    assert len(executed()) == 2


def test_status_counts_by_method_and_guesses_what_is_left(here: Path) -> None:
    plan(0, 1, thresholds=(0.5, 0.25))
    assert run("--only", "method=gated-0.5").exit_code == 0
    lines = read(Path("r.jsonl"))[0]
    Path("r.jsonl").write_text("".join(json.dumps(line | {"cpu_s": 1800.0}) + "\n" for line in lines))
    said = study("status", "plan.toml", "--results", "r.jsonl").stdout.splitlines()
    assert said[0] == "s: 2 of 4 runs done in 1.00 CPU h, about 1.00 CPU h left"
    assert [line.split() for line in said[2:]] == [["gated-0.5", "2", "2", "1800"], ["gated-0.25", "2", "0", "-"]]


MISTAKES: list[tuple[Callable[[], Result], str]] = [
    (lambda: study("run", "plan.toml"), "Missing option '--results'"),
    (lambda: study("run", "none.toml", "--results", "r.jsonl"), "none.toml: No such file or directory"),
    (lambda: run("--only", "sed=0"), "--only: 'sed' is unknown; valid: data, method, seed, shape"),
    (lambda: run("--jobs", "0"), "0 is not in the range x>=1"),
    (lambda: run("--limit", "1"), "No such option '--limit'"),
    (lambda: study("run", "plan.toml", "--results", "bad.jsonl"), "bad.jsonl: line 2: not JSON; valid: a line of"),
    (lambda: study("status", "plan.toml", "--results", "odd.jsonl"), "odd.jsonl: line 1: study is missing or no str"),
    (lambda: study("run", "plan.toml", "--results", "."), ".: Is a directory"),
]


@pytest.mark.parametrize(("call", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_gets_one_line_and_starts_nothing(call: Callable[[], Result], said: str, here: Path) -> None:
    plan(0)
    assert run().exit_code == 0
    good = Path("r.jsonl").read_bytes()
    Path("bad.jsonl").write_bytes(good + b"{\n")
    Path("odd.jsonl").write_text('{"key": "k"}\n')
    Path("started").unlink()
    check_refused(call(), said)
    assert not Path("started").exists()
    assert Path("r.jsonl").read_bytes() == good


@pytest.mark.parametrize("command", [[], ["run"], ["status"], ["report"], ["choose"]])
def test_help_fits_80_columns(command: list[str]) -> None:
    result = study(*command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80

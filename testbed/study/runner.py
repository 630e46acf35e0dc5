"""The runs of a plan that a results file lacks, carried out some at a time as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitcom.errors import ConfigError, DataError
from testbed.progress import Progress, size
from testbed.study import process, record
from testbed.study.plan import PlannedRun
from testbed.study.recipe import code_digest, digest, flat, same
from testbed.study.results import Appender, Line


@dataclass(frozen=True)
class Options:
    """What a plan does not say: this machine's paths, and how much of it to use."""

    data: str | None = None
    model: str | None = None
    jobs: int = 1
    threads: int = 1
    keep: Path | None = None
    limit_hours: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How many runs were added, which failed, and how many were not started for want of time."""

    added: int = 0
    failed: tuple[str, ...] = ()
    left: int = 0


def missing(runs: Sequence[PlannedRun], lines: Sequence[Line]) -> list[PlannedRun]:
    """The runs of which no line tells, or whose last line is of another recipe."""
    recorded = {line["key"]: flat(line["settings"]) for line in lines}
    return [run for run in runs if run.key not in recorded or not same(recorded[run.key], run.recipe())]


def check_base(runs: Sequence[PlannedRun], lines: Sequence[Line], options: Options) -> None:
    """Raise ConfigError when the file's runs of this plan were made on a base of another name."""
    bases = {run.key: base_name(run, options) for run in runs}
    for key, base in {line["key"]: line.get("base") for line in lines}.items():
        if base != bases.get(key, base):
            raise ConfigError(
                f"--model: {key} was carried out on {base}, not on {bases[key]}; "
                "valid: the same base, or another results file"
            )


def base_name(run: PlannedRun, options: Options) -> str:
    """The name of the base that a run uses, without the directories above it."""
    return Path(options.model or run.scenario.model.base).name


def arguments(run: PlannedRun, options: Options) -> list[str]:
    """What follows `splitcom` on the command line that carries a run out."""
    given = ["run", *run.arguments()]
    for program in ("server", "agent"):
        given += ["--set", f"{program}_threads={options.threads}"]
    if options.model:
        given += ["--model", options.model]
    # A set that is generated or comes from the hub has no directory.
    if options.data and run.scenario.data.set != "builtin" and not run.scenario.data.hub:
        given += ["--data", options.data]
    return given


async def carry_out(runs: Sequence[PlannedRun], options: Options, results: Appender, progress: Progress) -> Outcome:
    """Carry runs out, `options.jobs` at a time, and append a line for each that finishes.

    A run that fails is told and does not stop the others. When this is cancelled, all children have ended when it
    returns.
    """
    deadline = None if options.limit_hours is None else time.monotonic() + 3600 * options.limit_hours
    waiting, failed, added = list(reversed(runs)), [], 0
    done = 0

    async def worker() -> None:
        nonlocal added, done
        while waiting and (deadline is None or time.monotonic() < deadline):
            run = waiting.pop()
            try:
                line = await _one(run, options)
                results.append(line)
                added += 1
                said = _said(line)
            except DataError as error:
                failed.append(run.key)
                said = f"failed: {error}"
            done += 1
            progress.say(f"{done}/{len(runs)} {run.method} {_place(run)}: {said}")

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(options.jobs):
                group.create_task(worker(), name=f"worker {number}")
    except asyncio.CancelledError:
        progress.say(f"interrupted after {done} of {len(runs)} runs; a second start goes on")
        raise
    return Outcome(added, tuple(failed), len(waiting))


async def _one(run: PlannedRun, options: Options) -> Line:
    """Carry one run out in a process; its line. DataError tells how it failed."""
    settings, code = run.recipe(), code_digest()
    with _directory(run, digest(settings), options.keep) as directory:
        log = directory.with_name(directory.name + ".log")
        ended = await process.run([*arguments(run, options), "--out", str(directory)], log, options.threads)
        if ended.status != 0:
            raise DataError(process.last_words(log, ended.status))
        head = {
            "key": run.key,
            "study": run.study,
            "method": run.method,
            "place": dict(run.place),
            "digest": digest(settings),
            "code": code,
            "base": base_name(run, options),
            "threads": options.threads,
        }
        return record.line(head, settings, ended.cpu_s, record.of_run(directory))


@contextlib.contextmanager
def _directory(run: PlannedRun, name: str, keep: Path | None) -> Iterator[Path]:
    """A run directory that does not exist yet: below `keep`, named after the run, or a temporary one."""
    stem = run.key.replace("/", "-").replace(",", "-").replace("=", "-") + f"-{name}"
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="splitcom-study-", ignore_cleanup_errors=True) as folder:
            yield Path(folder) / "run"
        return
    keep.mkdir(parents=True, exist_ok=True)
    directory, number = keep / stem, 1
    while directory.exists():
        directory, number = keep / f"{stem}-{number}", number + 1
    yield directory


def _said(line: Line) -> str:
    summary = line["summary"]
    perplexity = "-" if summary["perplexity"] is None else f"{summary['perplexity']:.3f}"
    return (
        f"total {size(summary['total_bytes'])}, perplexity {perplexity}, "
        f"{line['cpu_s']:.0f} CPU s, {summary['wall_s']:.0f} s"
    )


def _place(run: PlannedRun) -> str:
    return " ".join(f"{name}={value}" for name, value in run.place.items())

"""`splitcom study`: many runs from one plan, and what they say."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from broker.program import fail, one_line_errors, run

PLAN = click.argument("plan", type=click.Path(path_type=Path))
FILE = click.option(
    "--results", required=True, type=click.Path(path_type=Path), metavar="FILE", help="One line per finished run."
)
FILES = click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
BASELINE = click.option("--baseline", default="splitlora", metavar="METHOD", help="What the others are compared with.")
BY = click.option("--by", metavar="NAMES", help="A table for each value of these, such as data,shape.")
ONLY = click.option("--only", multiple=True, metavar="KEY=VALUE", help="Only runs of this method, seed, or other axis.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group()
def main() -> None:
    """Carry out the runs of a plan, and compare their results."""


@main.command(name="run", context_settings={"show_default": True})
@PLAN
@FILE
@click.option("--data", metavar="DIR", help="The directory with the data sets' original files.")
@click.option("--model", metavar="BASE", help="The base: a directory in Hugging Face layout or a hub name.")
@click.option("--jobs", type=click.IntRange(1), default=1, metavar="N", help="Runs at a time.")
@click.option("--threads", type=click.IntRange(1), default=1, metavar="N", help="Threads of each run.")
@ONLY
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep the run directories, in DIR.")
@click.option("--limit-hours", type=click.FloatRange(0), metavar="H", help="Start no run after so many hours.")
@click.option("--dry-run", is_flag=True, help="Only list the runs and the command of each.")
def carry_out(plan: Path, results: Path, only: tuple[str, ...], dry_run: bool, **given: Any) -> None:
    """Carry out the runs of PLAN that the results file lacks; a second start goes on where the first one stopped.

    Bytes and quality do not depend on --jobs; quality may depend on --threads.
    """
    from splitcom.errors import SplitComError
    from testbed.progress import Progress
    from testbed.study.plan import load
    from testbed.study.results import appending, read
    from testbed.study.runner import Options, arguments, check_base, missing
    from testbed.study.runner import carry_out as start

    options = Options(**given)
    with one_line_errors(SplitComError):
        planned = load(plan)
        runs = planned.only(only)
        lines, unfinished = read(results) if results.exists() else ([], 0)
        check_base(planned.runs, lines, options)
        to_do = missing(runs, lines)
        if dry_run:
            for entry in runs:
                click.echo(f"{'missing' if entry in to_do else 'done'}: {entry.key}")
                click.echo(f"  {shlex.join(['splitcom', *arguments(entry, options)])}")
            return
        progress = Progress(planned.name)
        with appending(results) as appender:
            if unfinished:
                progress.say(f"dropped an unfinished line of {unfinished} bytes at the end of {results}")
            progress.say(f"{len(to_do)} of {len(runs)} runs to do")
            outcome = run(start(to_do, options, appender, progress))
    if outcome.left:
        progress.say(f"{outcome.left} runs not started: the limit of {options.limit_hours:g} h is over")
    if outcome.failed:
        fail(f"{len(outcome.failed)} runs failed: {', '.join(outcome.failed)}", status=1)


@main.command()
@PLAN
@FILE
def status(plan: Path, results: Path) -> None:
    """How much of PLAN the results file has."""
    from splitcom.errors import SplitComError
    from testbed.study.plan import load
    from testbed.study.results import read
    from testbed.study.status import render

    with one_line_errors(SplitComError):
        planned = load(plan)
        click.echo(render(planned, read(results)[0] if results.exists() else []))


@main.command(context_settings={"show_default": True})
@FILES
@BASELINE
@BY
@ONLY
@click.option("--plot", type=click.Path(path_type=Path), metavar="DIR", help="Also draw figures, into DIR.")
@click.option("--format", "kind", type=click.Choice(["svg", "png"]), default="svg", help="The kind of figures.")
@AS_JSON
def report(
    results: tuple[Path, ...],
    baseline: str,
    by: str | None,
    only: tuple[str, ...],
    plot: Path | None,
    kind: str,
    as_json: bool,
) -> None:
    """Compare the methods in RESULTS with the baseline: bytes, quality, and paired differences over seeds."""
    from splitcom.errors import SplitComError
    from testbed.study.plots import check_plots, draw
    from testbed.study.report import compare, numbers
    from testbed.study.tables import mixed, render

    with one_line_errors(SplitComError):
        if plot:
            check_plots()
        lines = chosen_lines(results, only)
        groups = compare(lines, baseline, names(by))
        paths = draw(lines, groups, plot, kind) if plot else []
    if as_json:
        click.echo(json.dumps({"groups": numbers(groups), "figures": [str(path) for path in paths]}, indent=1))
        return
    click.echo(render(groups, mixed(lines)))
    if paths:
        click.echo("\n".join(["", "figures:", *(f"  {path}" for path in paths)]))


@main.command(context_settings={"show_default": True})
@FILES
@click.option("--among", required=True, metavar="PREFIX", help="The sweep: methods whose name begins so.")
@click.option("--max-worse", default="1.0%", metavar="PERCENT", help="How far above the baseline's perplexity.")
@BASELINE
@BY
@ONLY
@AS_JSON
def choose(
    results: tuple[Path, ...],
    among: str,
    max_worse: str,
    baseline: str,
    by: str | None,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """The setting of a sweep with the fewest bytes whose validation perplexity is near the baseline's."""
    from splitcom.errors import ConfigError, SplitComError
    from testbed.study.choose import choose as pick
    from testbed.study.tables import render_choices

    with one_line_errors(SplitComError):
        try:
            limit = float(max_worse.removesuffix("%"))
        except ValueError:
            raise ConfigError(f"--max-worse: {max_worse!r} is no percentage; valid: for example 1.0%") from None
        made = pick(chosen_lines(results, only), baseline, among, limit, names(by))
    if as_json:
        click.echo(json.dumps([asdict(choice) for choice in made], indent=1))
    else:
        click.echo(render_choices(made, limit))


def chosen_lines(results: tuple[Path, ...], only: tuple[str, ...]) -> list[dict[str, Any]]:
    """The lines of results files that meet the conditions; ConfigError when there are none at all."""
    from splitcom.errors import ConfigError
    from testbed.study.coordinates import matching
    from testbed.study.report import coordinates
    from testbed.study.results import latest

    lines = latest(results)
    if not lines:
        raise ConfigError(f"{', '.join(map(str, results))}: no results; valid: files that `splitcom study run` wrote")
    return matching([({"method": line["method"], **coordinates(line)}, line) for line in lines], only)


def names(by: str | None) -> list[str]:
    """The names in a list with commas; none when it was not given."""
    return [name.strip() for name in (by or "").split(",") if name.strip()]

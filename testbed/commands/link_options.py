"""What the commands of `splitcom link` have in common: options, results as text or JSON, errors in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from broker.program import one_line_errors

T = TypeVar("T")
Report = Callable[[dict[str, Any]], str]


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def dry_run_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Print the commands that would be run, and run none.")(command)


def out(result: dict[str, Any], as_json: bool, report: Report) -> None:
    """Print a result, as JSON or as the report makes of it."""
    click.echo(json.dumps(result, indent=1) if as_json else report(result))


def commands(result: dict[str, Any]) -> str:
    """The report of a dry run."""
    return "\n".join(result["commands"]) or "nothing to do"


def carry_out(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns; its errors are one line."""
    from broker.program import run

    with one_line_errors():
        return run(work)

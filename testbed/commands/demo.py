"""`splitcom demo`: what the method saves and what it costs, seen in a few minutes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from broker.program import one_line_errors, overrides


@click.command(context_settings={"show_default": True})
@click.option("--out", default="runs", metavar="DIR", help="Where the three run directories go.")
@click.option("--broker", metavar="SPEC", help="embedded, mosquitto, mqtt://host:port or mqtts://...")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the scenarios.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(out: str, broker: str | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Compare splitlora, splitcom and frozen-head: broker, server and 3 agents as processes, built-in data."""
    from splitcom.errors import SplitComError
    from testbed.commands.run import execute
    from testbed.demo import METHODS, compare, render
    from testbed.progress import Progress
    from testbed.runner import new_directory
    from testbed.scenario import Scenario, read

    summaries = {}
    with one_line_errors(SplitComError):
        layer = overrides(Scenario, "SPLITCOM_RUN_", {"broker": broker}, assignments)
        scenarios = {method: read(["demo", method], layer) for method in METHODS}
        for method, scenario in scenarios.items():
            directory = new_directory(Path(out), scenario.name)
            summaries[method] = execute(scenario, directory, Progress(method))
    result = compare(summaries)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        click.echo(render(result))
        click.echo("\n".join(["run directories:", *(f"  {path}" for path in result["run_dirs"])]))

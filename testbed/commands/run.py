"""`splitcom run`: carry a scenario out on this machine."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from broker.program import one_line_errors, overrides, run

FLAGS = {
    "model": "model.base",
    "data": "data.path",
    "clients": "clients",
    "epochs": "training.epochs",
    "seed": "training.seed",
    "transport": "transport",
    "broker": "broker",
}


@click.command(context_settings={"show_default": True})
@click.argument("scenario", nargs=-1, required=True)
@click.option("--model", metavar="BASE", help="The base: a directory in Hugging Face layout or a hub name.")
@click.option("--data", metavar="DIR", help="The directory with the data set's original files.")
@click.option("--clients", metavar="N", help="The number of agents.")
@click.option("--epochs", metavar="N", help="Passes over each agent's shard.")
@click.option("--seed", metavar="N", help="The seed of adapters, sketches and order.")
@click.option("--transport", metavar="NAME", help="mqtt (processes) or memory (one process, no socket).")
@click.option("--broker", metavar="SPEC", help="embedded, mosquitto, mqtt://host:port or mqtts://...")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the scenario.")
@click.option("--out", metavar="DIR", help="The run directory; by default a new one in runs/.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of summary.json at the end.")
def main(scenario: tuple[str, ...], assignments: tuple[str, ...], out: str | None, as_json: bool, **flags: Any) -> None:
    """Run SCENARIO (a name or a file; several are laid over each other, as in `splitcom run e2e splitlora`).

    Settings come from the scenario, then from SPLITCOM_RUN_... variables, then from flags.
    """
    with one_line_errors():
        from testbed.scenario import Scenario, read

        given = {FLAGS[key]: value for key, value in flags.items()}
        parsed = read(scenario, overrides(Scenario, "SPLITCOM_RUN_", given, assignments))

    from splitcom.errors import SplitComError
    from testbed.progress import Progress
    from testbed.runner import new_directory

    directory = Path(out) if out else new_directory(Path("runs"), parsed.name)
    with one_line_errors(SplitComError):
        summary = execute(parsed, directory, Progress(parsed.name))
    if as_json:
        click.echo(json.dumps(summary, indent=1))
    else:
        click.echo(report(summary))


def execute(scenario: Any, directory: Path, progress: Any) -> dict[str, Any]:
    """Prepare the run directory and run on the scenario's transport; the summary."""
    from testbed.runner import prepare, run_processes

    scenario = prepare(scenario, directory, progress)
    if scenario.transport == "mqtt":
        return run(run_processes(scenario, directory, progress))
    from testbed.memory import run_in_memory

    return run(run_in_memory(scenario, directory, progress))


def report(summary: dict[str, Any]) -> str:
    """The summary for a person, in a few lines."""
    from testbed.progress import figure, size

    bleu = summary["bleu"]
    return "\n".join(
        [
            f"up {size(summary['uplink_bytes'])}, down {size(summary['downlink_bytes'])}, "
            f"total {size(summary['total_bytes'])}: {summary['saved_percent']:.1f} % less than bare fp16",
            textwrap.fill(f"skipped {skipped(summary['skip_ratios'])}", 80, subsequent_indent="  "),
            f"{summary['steps']} steps at {summary['steps_per_s']:.2f}/s, {summary['wall_s']:.0f} s in all",
            f"validation perplexity {figure(summary['perplexity_before'])} -> {figure(summary['perplexity'])}"
            + (f", BLEU {bleu:.1f}" if bleu is not None else ""),
            f"run directory: {summary['run_dir']}",
        ]
    )


def skipped(ratios: dict[str, float]) -> str:
    """The share of samples that each stream skipped, where it skipped any."""
    shares = [f"{100 * ratio:.1f}% of {stream}" for stream, ratio in ratios.items() if ratio]
    return ", ".join(shares) or "nothing"

"""`splitcom policy`: train a DDPG policy from recorded runs, and look at one."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from splitcom.control.transitions import Transition

# A stream whose recorded actions spread less than this says little about other thresholds.
SPREAD_MIN = 0.1


@click.group()
def main() -> None:
    """Train and show policies for control.kind = "ddpg"."""


@main.command(context_settings={"show_default": True})
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", required=True, metavar="FILE", help="The policy to write; it must not exist yet.")
@click.option("--updates", type=click.IntRange(1), default=3000, metavar="N", help="Gradient steps.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, metavar="N", help="Weights and batches.")
@click.option("--minimum", type=click.IntRange(1), default=2000, metavar="N", help="Fewest transitions to accept.")
@click.option(
    "--byte-weight", type=click.FloatRange(0), default=0.05, metavar="X", help="Weight of uploads in rewards."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    runs: tuple[str, ...], out: str, updates: int, seed: int, minimum: int, byte_weight: float, as_json: bool
) -> None:
    """Train a policy on recorded runs.

    RUN is a run directory or its transitions.jsonl. Runs with control.kind = "random" are the best source: they try
    every threshold.
    """
    from broker.errors import SettingsError
    from broker.program import one_line_errors
    from splitcom.control import policy
    from splitcom.errors import SplitComError
    from testbed.progress import Progress

    with one_line_errors(SplitComError):
        target = Path(out)
        if target.exists():
            raise SettingsError(f"--out: {target} exists; valid: a file that does not exist yet")
        if not target.parent.is_dir():
            raise SettingsError(f"--out: {target.parent} is no directory; valid: a file in an existing one")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise SettingsError(f"--out: {target.parent} cannot be written; valid: a file in a directory that can")
        if not math.isfinite(byte_weight):
            raise SettingsError(f"--byte-weight: {byte_weight:g}; valid: a finite number, 0 or more")
        transitions = gather(runs, minimum)
        # Not before now: it brings torch, and most mistakes need not wait for that.
        from splitcom.control.offline import train as train_offline

        progress = Progress("policy")

        def show(update: int, count: int, loss: float) -> None:
            progress.pulse(f"update {update}/{count}, critic loss {loss:.4f}")
            if update == count or (not progress.live and update % max(1, count // 10) == 0):
                progress.say(f"update {update}/{count}, critic loss {loss:.4f}")

        trained = train_offline(transitions, byte_weight, updates, seed, show)
        policy.write(target, trained.policy)
        for name, actions in trained.actions.items():
            if actions.recorded_spread < SPREAD_MIN:
                progress.say(f"{name}: the recorded actions hardly differ; the policy there is a guess")
    result = {
        "policy": str(target),
        "transitions": len(transitions),
        "updates": updates,
        "byte_weight": byte_weight,
        "critic_loss": trained.critic_loss,
        "actions": {name: asdict(actions) for name, actions in trained.actions.items()},
    }
    click.echo(json.dumps(result, indent=1) if as_json else report(result))


def gather(runs: tuple[str, ...], minimum: int) -> list[Transition]:
    """The transitions of all runs, each file once; DataError where there are fewer than `minimum`."""
    from splitcom.control.transitions import TRANSITIONS_FILE, read
    from splitcom.errors import DataError

    files = {(Path(run) / TRANSITIONS_FILE if Path(run).is_dir() else Path(run)).resolve(): Path(run) for run in runs}
    found = [transition for run in files.values() for transition in read(run)]
    if len(found) < minimum:
        raise DataError(f"RUN: {len(found)} transitions in all; valid: at least {minimum} (see --minimum)")
    return found


def report(result: dict[str, Any]) -> str:
    """The result for a person: the figures, then the actions by stream."""
    from testbed.progress import table

    rows = [
        {
            "stream": name,
            "transitions": str(actions["transitions"]),
            "recorded action": f"{actions['recorded_mean']:+.2f} ± {actions['recorded_spread']:.2f}",
            "policy's action": f"{actions['policy_mean']:+.2f}",
        }
        for name, actions in result["actions"].items()
    ]
    return "\n".join(
        [
            f"{result['transitions']} transitions, {result['updates']} updates, "
            f"critic loss {result['critic_loss']:.4f}, byte weight {result['byte_weight']:g}",
            "mean actions, -1 is loose and 1 is tight:",
            table(rows),
            f"policy: {result['policy']}",
        ]
    )


@main.command()
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(file: str, as_json: bool) -> None:
    """Print what a policy FILE says about itself."""
    from broker.program import one_line_errors
    from splitcom.control import policy
    from splitcom.errors import SplitComError

    with one_line_errors(SplitComError):
        found = policy.read(Path(file), "FILE")
    described = policy.described(found)
    if as_json:
        click.echo(json.dumps(described, indent=1))
    else:
        click.echo("\n".join(f"{key}: {value}" for key, value in described.items()))

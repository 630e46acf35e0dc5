"""`splitcom bench`: figures for docs/performance.md, each a ratio or a difference within one run."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from typing import Any

import click


@click.group()
def main() -> None:
    """Measure the product against plain training."""


def layers(model: str, data: str, assignments: tuple[str, ...]) -> dict[str, Any]:
    """The scenario layer that a benchmark's options make."""
    from broker.settings import from_assignments, merge

    return merge({"model": {"base": model}, "data": {"path": data}}, from_assignments(assignments))


@main.command()
@click.option("--model", required=True, metavar="BASE", help="The base.")
@click.option("--data", required=True, metavar="DIR", help="The directory with E2E's original files.")
@click.option("--steps", default=30, show_default=True, metavar="N", help="Steps per run, 5 of them to warm up.")
@click.option("--repeats", default=5, show_default=True, metavar="N", help="Pairs of runs.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the scenario.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def step(model: str, data: str, steps: int, repeats: int, assignments: tuple[str, ...], as_json: bool) -> None:
    """CPU and wall time of a step of 3 agents and a server against monolithic PEFT on the concatenated batch."""
    from broker.program import one_line_errors
    from splitcom.errors import SplitComError
    from testbed.bench.step import bench_step

    with one_line_errors(SplitComError):
        result = bench_step(layers(model, data, assignments), steps, repeats, lambda text: click.echo(text, err=True))
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    for key, ratio in result["ratio"].items():
        click.echo(f"{key}: {ratio['median']:.3f} x monolithic (range {ratio['min']:.3f} to {ratio['max']:.3f})")
    click.echo(f"encode + decode: {100 * result['codec_share']:.1f} % of the heads' forward and backward")


@main.command()
@click.option("--model", required=True, metavar="BASE", help="The base.")
@click.option("--data", required=True, metavar="DIR", help="The directory with E2E's original files.")
@click.option("--length", default=96, show_default=True, metavar="T", help="Tokens per sample of the floor's one step.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of the scenario.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def memory(model: str, data: str, length: int, assignments: tuple[str, ...], as_json: bool) -> None:
    """An agent's peak memory over a process that loaded the head and ran one step."""
    from broker.program import one_line_errors
    from splitcom.errors import SplitComError
    from testbed.bench.memory import bench_memory

    with one_line_errors(SplitComError):
        result = bench_memory(layers(model, data, assignments), length)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        click.echo(f"an agent's peak is {result['above_floor_bytes'] / 1e6:.1f} MB above the floor")


@main.command()
@click.option("--shapes", default="small,xl", show_default=True, metavar="LIST", help="Sizes of the base: small, xl.")
@click.option("--samples", default=32, show_default=True, metavar="N", type=click.IntRange(1), help="Of the shard.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def size(shapes: str, samples: int, as_json: bool) -> None:
    """An agent's memory and seconds per step at the sizes of GPT-2 small and XL, with random weights.

    3 blocks (in the U-shape one more) and the embeddings on the agent, batches of 8 samples of 512 tokens, 2 epochs.
    Memory in MB: the peak, and of it imports, weights, references, and the rest (activations, gradients, optimiser);
    `loading` is the peak before the first step, `up` the bytes in MB that the first step sends.
    """
    from broker.program import one_line_errors
    from splitcom.errors import ConfigError, SplitComError, choices
    from testbed.bench.sizes import SIZES

    names = [name.strip() for name in shapes.split(",")]
    with one_line_errors(SplitComError):
        for name in names:
            if name not in SIZES:
                raise ConfigError(f"--shapes: {name!r}; {choices(SIZES)}")
        from testbed.bench.size import bench_size, render

        rows = bench_size({name: SIZES[name] for name in names}, samples, lambda text: click.echo(text, err=True))
    click.echo(json.dumps(rows, indent=1) if as_json else render(rows))


@main.command()
@click.option("--backends", default="netns,tun,proxy", show_default=True, metavar="LIST", help="Back-ends to measure.")
@click.option("--congestion", default="cubic,bbr", show_default=True, metavar="LIST", help="TCP's congestion controls.")
@click.option("--what", default="completions,traces,delays,small,losses", show_default=True, metavar="LIST")
@click.option("--repeats", default=3, show_default=True, metavar="N", type=click.IntRange(1), help="Of each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def links(backends: str, congestion: str, what: str, repeats: int, as_json: bool) -> None:
    """How exact emulated links are: completion times, delays, loss and traces, by back-end.

    Each row is held against what the back-end promises; one that is over it makes the exit status 1. Takes about ten
    minutes a back-end and congestion control, and is worth something only on a quiet machine.
    """
    from broker.errors import SettingsError
    from broker.program import one_line_errors
    from testbed.bench.links import NEEDS, bench_links
    from testbed.bench.links_rows import AGGREGATE_MBIT, render

    names, kinds, controls = ([name.strip() for name in text.split(",")] for text in (backends, what, congestion))
    with one_line_errors():
        for flag, given, valid in (("--backends", names, AGGREGATE_MBIT), ("--what", kinds, NEEDS)):
            for name in given:
                if name not in valid:
                    raise SettingsError(f"{flag}: {name!r} is unknown; valid: {', '.join(valid)}")
        result = bench_links(names, controls, kinds, repeats, lambda text: click.echo(text, err=True))
    click.echo(json.dumps(result, indent=1) if as_json else render(result))
    if not all(row["ok"] for row in result["rows"]):
        raise click.exceptions.Exit(1)


@main.command()
@click.option("--brokers", metavar="LIST", help="Brokers, ratios of the first.  [default: all that are installed]")
@click.option("--pairs", default=9, show_default=True, metavar="N", type=click.IntRange(1), help="Of each measurement.")
@click.option("--sizes", default="1KB,64KB,256KB,1MB,6MB", show_default=True, metavar="LIST", help="Message sizes.")
@click.option(
    "--rows", "kinds", default="pair,idle,round-trip,flood,client", show_default=True, metavar="LIST", help="What."
)
@click.option("--quick", is_flag=True, help="Little of everything, once: shows that it works, and no figure to use.")
@click.option("--check", "checking", is_flag=True, help="Exit with status 1 where a target does not hold.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def broker(brokers: str | None, pairs: int, sizes: str, kinds: str, quick: bool, checking: bool, as_json: bool) -> None:
    """Throughput, latency, CPU time and memory of the embedded broker against others.

    `pair` is one publisher and one subscriber at each size, `idle` memory with 50, 200 and 1,000 connections,
    `round-trip` 200 clients with 100 KB each, `flood` a subscriber that reads 1 Mbit/s beside a fast one, and `client`
    the channels' own client. Takes about a minute a pair, and is worth something only on a quiet machine.
    """
    import asyncio

    from broker.program import one_line_errors
    from testbed.bench.broker import bench_broker, render, rows
    from testbed.bench.broker_rows import FULL, KINDS, QUICK, SIZES
    from testbed.bench.broker_subjects import SUBJECTS, check, installed

    with one_line_errors():
        names = _listed("--brokers", brokers, SUBJECTS) if brokers else installed()
        check(names)
        chosen = rows(_listed("--rows", kinds, KINDS), _listed("--sizes", sizes, SIZES), QUICK if quick else FULL)
        say = functools.partial(click.echo, err=True)
        result = asyncio.run(bench_broker(names, chosen, 1 if quick else pairs, say))
    click.echo(json.dumps(result, indent=1) if as_json else render(result))
    if checking and not (result["targets"] and all(target["ok"] for target in result["targets"])):
        raise click.exceptions.Exit(1)


@main.command()
@click.option("--broker", default="embedded", show_default=True, metavar="NAME", help="The broker.")
@click.option("--clients", default=50, show_default=True, metavar="N", type=click.IntRange(1), help="At once.")
@click.option("--minutes", default=30.0, show_default=True, metavar="M", type=click.FloatRange(0), help="How long.")
@click.option("--every", "every_s", default=10.0, show_default=True, type=click.FloatRange(0.1), help="Sample's time.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of what the clients do.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def soak(broker: str, clients: int, minutes: float, every_s: float, seed: int, as_json: bool) -> None:
    """Whether a broker's memory and descriptors stay flat while clients come, publish and go in every way.

    The exit status is 1 where they do not.
    """
    import asyncio

    from broker.program import one_line_errors
    from testbed.bench.broker_soak import bench_soak, render
    from testbed.bench.broker_subjects import SUBJECTS, check

    with one_line_errors():
        check(_listed("--broker", broker, SUBJECTS))
        say = functools.partial(click.echo, err=True)
        result = asyncio.run(bench_soak(broker, clients, minutes, every_s, seed, say))
    click.echo(json.dumps(result, indent=1) if as_json else render(result))
    if not result["ok"]:
        raise click.exceptions.Exit(1)


def _listed(option: str, value: str, valid: Collection[str]) -> list[str]:
    """The names in a comma-separated list; SettingsError for one that is not valid."""
    from broker.errors import SettingsError

    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in valid:
            raise SettingsError(f"{option}: {name!r} is unknown; valid: {', '.join(valid)}")
    return names

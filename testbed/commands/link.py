"""`splitcom link`: look at, measure and change emulated links."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from broker.program import one_line_errors

Report = Callable[[dict[str, Any]], str]


@click.group()
def main() -> None:
    """Emulate links: measure what they are, see and change those of a run or of devices, remove all traces.

    A PROFILE is a preset (lte, 3g, dsl, wifi, lora, satellite), a file, or words such as
    `up=5mbit down=20mbit delay=30ms jitter=5ms loss=1% queue=100ms`; see docs/links.md.
    """


def _json(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def _dry_run(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--dry-run", is_flag=True, help="Print the commands that would be run, and run none.")(command)


def _out(result: dict[str, Any], as_json: bool, report: Report) -> None:
    click.echo(json.dumps(result, indent=1) if as_json else report(result))


def _carry_out(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    from broker.program import run

    with one_line_errors():
        return run(work)


@main.command()
@_json
def probe(as_json: bool) -> None:
    """What this kernel and these privileges allow, and which back-ends with them."""
    from testbed.links.capabilities import CAN, WHAT, capabilities, why_not

    with one_line_errors():
        found = capabilities()
    backends = {name: {"can": sorted(can), "why_not": why_not(name, {"rate"}, found)} for name, can in CAN.items()}
    backends["none"]["why_not"] = None
    for name in ("netns", "host"):
        if backends[name]["why_not"] is None:
            backends[name]["without_netem"] = why_not(name, {"rate", "delay"}, found)

    def report(result: dict[str, Any]) -> str:
        lines = [f"kernel {found['kernel']}, congestion control {found['congestion_default']}"]
        for name, told in result["backends"].items():
            lines.append(f"{name:6} {told['why_not'] or 'usable: ' + WHAT[name]}")
            if told.get("without_netem"):
                lines.append(f"{'':6} rates only: {told['without_netem'].removeprefix('links.backend: ')}")
        return "\n".join(lines)

    _out({"capabilities": found, "backends": backends}, as_json, report)


@main.command(context_settings={"show_default": True})
@click.argument("profile", nargs=-1)
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Take links and clients from a scenario.")
@click.option("--clients", type=click.IntRange(1, 1000), default=1, metavar="N", help="Links of PROFILE, all at once.")
@click.option("--backend", default="auto", metavar="NAME", help="auto, netns, tun or proxy.")
@click.option("--seconds", type=click.FloatRange(2, 600), default=5.0, metavar="S", help="Length of the transfers.")
@click.option("--congestion", default="cubic", metavar="NAME", help="TCP's congestion control, at both ends.")
@_dry_run
@_json
def check(
    profile: tuple[str, ...],
    scenarios: tuple[str, ...],
    clients: int,
    backend: str,
    seconds: float,
    congestion: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make links as a run would, and hold what is measured against what is configured.

    Fails where a rate or delay is more than 5 % off (rates on netns: 2 %), or a loss more than chance explains.
    """
    from broker.errors import SettingsError
    from testbed.links.checking import check_links, planned
    from testbed.links.links_config import LinksConfig

    with one_line_errors():
        if bool(profile) == bool(scenarios):
            raise SettingsError("link check: give either a PROFILE or --scenario; valid: lte, or up=5mbit down=20mbit")
        if scenarios:
            from testbed.scenario import read

            scenario = read(scenarios)
            config, names = scenario.links, scenario.agents()
        else:
            from broker.settings import build

            table = {"backend": backend, "profile": " ".join(profile), "congestion": congestion}
            config = build(LinksConfig, table, "links.")
            names = [f"client{number}" for number in range(clients)]
        if dry_run:
            click.echo("\n".join(planned(config, names)))
            return
        with tempfile.TemporaryDirectory(prefix="splitcom-check-") as folder:
            result = _carry_out(check_links(config, names, Path(folder), seconds))
    _out(result, as_json, _checks)
    if not all(each["ok"] for each in result["checks"]):
        raise click.exceptions.Exit(1)


def _checks(result: dict[str, Any]) -> str:
    units = {"rate": (1e6, "Mbit/s"), "delay": (1, "ms"), "loss": (1, "%")}
    lines = [f"{result['backend']}: {result['why']}", f"congestion control {result['congestion']}"]
    lines.append(f"{'client':12} {'way':5} {'what':6} {'configured':>17} {'measured':>11} {'error':>9}")
    for each in result["checks"]:
        scale, unit = units[each["what"]]
        lines.append(
            f"{each['client'][:12]:12} {each['direction']:5} {each['what']:6} "
            f"{each['configured'] / scale:10.4g} {unit:6} {each['measured'] / scale:11.4g} "
            f"{each['error_percent']:+7.2f} %" + ("" if each["ok"] else f" over {each['allowed_percent']:.1f} %")
        )
    return "\n".join(lines)


@main.command()
@click.argument("target", required=False)
@_json
def show(target: str | None, as_json: bool) -> None:
    """The links that there are now: of runs that go on, of devices, and what killed runs left.

    TARGET is the name of a run or an interface; without it all are shown.
    """
    from testbed.links.control import show as show_links

    def report(result: dict[str, Any]) -> str:
        lines = []
        for owner in result["owners"]:
            lines.append(f"{owner['name']}: {owner['backend']}" + (f", {owner['note']}" if owner.get("note") else ""))
            for name, text in owner.get("links", {}).items():
                lines.append(f"  {name}: {text}")
                for way, counts in owner.get("counters", {}).get(name, {}).items():
                    words = [f"{key} {value}" for key, value in counts.items()]
                    lines.append(f"    {way}: {', '.join(words)}")
        return "\n".join(lines) or "no links are emulated here"

    _out(_carry_out(show_links(target)), as_json, report)


@main.command(name="set")
@click.argument("target")
@click.argument("profile", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Replace a queueing discipline that somebody else set up.")
@_dry_run
@_json
def set_(target: str, profile: tuple[str, ...], force: bool, dry_run: bool, as_json: bool) -> None:
    """Give the link of TARGET a PROFILE, from now on.

    TARGET is RUN/CLIENT for a run that goes on (RUN/all: all of its links), or INTERFACE/ADDRESS for a device behind
    an interface of this machine: eth0/192.168.1.13.
    """
    from testbed.links.control import set_link

    result = _carry_out(set_link(target, " ".join(profile), force, dry_run))
    _out(result, as_json, _said)


@main.command()
@click.argument("target")
@_json
def clear(target: str, as_json: bool) -> None:
    """Take the shaping away from TARGET: RUN/CLIENT, INTERFACE/ADDRESS, or a whole INTERFACE."""
    from testbed.links.control import clear_link

    _out(_carry_out(clear_link(target)), as_json, _said)


@main.command()
@_json
def reset(as_json: bool) -> None:
    """Remove what killed runs left, and all shaping of interfaces; runs that go on are left alone."""
    from testbed.links.control import reset_all

    _out(_carry_out(reset_all()), as_json, _said)


def _said(result: dict[str, Any]) -> str:
    return "\n".join(result["done"]) or "nothing to do"

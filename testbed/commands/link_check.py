"""`splitcom link check` and `join`: links held against what they are configured to be."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

import click

from broker.congestion import resolve
from broker.errors import SettingsError
from broker.program import one_line_errors
from testbed.commands.link_options import carry_out, commands, dry_run_option, json_option, out

UNITS = {"rate": (1e6, "Mbit/s"), "delay": (1, "ms"), "jitter": (1, "ms"), "loss": (1, "%")}
_LINKS, _DEVICES = ("scenarios", "clients", "backend", "dry_run"), ("port", "wait")


@click.command(context_settings={"show_default": True}, short_help="Measure links against what is configured.")
@click.argument("profile", nargs=-1, metavar="[PROFILE | INTERFACE]")
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Take links and clients from a scenario.")
@click.option("--clients", type=click.IntRange(1, 1000), default=1, metavar="N", help="Links of PROFILE, all at once.")
@click.option("--backend", default="auto", metavar="NAME", help="auto, netns, tun or proxy.")
@click.option("--seconds", type=click.FloatRange(2, 600), default=5.0, metavar="S", help="Length of the transfers.")
@click.option("--congestion", default="auto", metavar="NAME", help="TCP's congestion control, at both ends.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Where devices join; 0: any.")
@click.option("--wait", default="120s", metavar="TIME", help="How long devices have to join.")
@dry_run_option
@json_option
@click.pass_context
def check(context: click.Context, /, profile: tuple[str, ...], as_json: bool, dry_run: bool, **options: Any) -> None:
    """Hold what links are measured to be against what they are configured to be.

    With a PROFILE or a scenario links are made as a run would, and removed. With an INTERFACE the devices are measured
    that are shaped behind it: `splitcom link join` has to be run on each of them. Their links are as before afterwards.

    Fails where a rate or delay is more than 5 % off (rates on netns: 2 %), or a loss or a jitter more than chance
    explains.
    """
    with one_line_errors():
        if bool(profile) == bool(options["scenarios"]):
            raise SettingsError(
                "link check: give a PROFILE, an INTERFACE or --scenario; valid: lte, up=5mbit down=20mbit, or eth0"
            )
        interface = _interface(profile)
        _refuse_others(context, interface)
        if dry_run:
            out(_plan(profile, **options), as_json, commands)
            return
    result = _devices(interface, **options) if interface else _links(profile, **options)
    out(result, as_json, _report)
    if not all(each["ok"] for each in result["checks"]):
        raise click.exceptions.Exit(1)


def _interface(words: tuple[str, ...]) -> str:
    """The interface that is meant, if it is one and no profile; SettingsError where a single word is neither."""
    from testbed.links.profile import parse, presets

    if len(words) != 1 or "=" in words[0] or words[0] in presets():
        return ""
    interfaces = [name for _, name in socket.if_nameindex()]
    if words[0] in interfaces:
        return words[0]
    try:
        parse(words[0])
    except SettingsError as error:
        raise SettingsError(f"{error}, or an interface: {', '.join(interfaces)}") from None
    return ""


def _refuse_others(context: click.Context, interface: str) -> None:
    """SettingsError for an option that says nothing about what is measured."""
    for name in _LINKS if interface else _DEVICES:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = f"--{name.rstrip('s') if name == 'scenarios' else name.replace('_', '-')}"
            what = "of links that it makes" if interface else "of devices"
            valid = "--seconds, --congestion, --port, --wait" if interface else "with an INTERFACE instead of a PROFILE"
            raise SettingsError(f"link check: {option} is for a check {what}; valid: {valid}")


def _configured(profile: tuple[str, ...], options: dict[str, Any]) -> tuple[Any, list[str]]:
    """The links to make, and the names of their clients."""
    if options["scenarios"]:
        from testbed.scenario import read

        scenario = read(options["scenarios"])
        return scenario.links, scenario.agents()
    from broker.settings import build
    from testbed.links.links_config import LinksConfig

    table = {"backend": options["backend"], "profile": " ".join(profile), "congestion": options["congestion"]}
    return build(LinksConfig, table, "links."), [f"client{number}" for number in range(options["clients"])]


def _plan(profile: tuple[str, ...], **options: Any) -> dict[str, Any]:
    from testbed.links.checking import planned

    texts, refusal = planned(*_configured(profile, options))
    if refusal:
        click.echo(f"not runnable here: {refusal}", err=True)
    return {"commands": texts}


def _links(profile: tuple[str, ...], **options: Any) -> dict[str, Any]:
    from testbed.links.checking import check_links

    with one_line_errors(), tempfile.TemporaryDirectory(prefix="splitcom-check-") as folder:
        return carry_out(check_links(*_configured(profile, options), Path(folder), options["seconds"]))


def _devices(interface: str, **options: Any) -> dict[str, Any]:
    from testbed.links import units
    from testbed.links.capabilities import capabilities, why_not
    from testbed.links.errors import LinkError

    with one_line_errors():
        wait_s = units.time("--wait", options["wait"])
        refusal = why_not("host", {"rate"}, capabilities())
        if refusal is not None:
            raise LinkError(refusal)
        from testbed.links.device_check import check_devices
        from testbed.links.host import Host

        def say(text: str) -> None:
            click.echo(text, err=True)

        congestion = resolve(options["congestion"])
        work = check_devices(Host(interface), options["seconds"], options["port"], wait_s, congestion, say)
        return carry_out(work)


def _report(result: dict[str, Any]) -> str:
    lines = [f"{result['backend']}: {result['why']}", f"congestion control {result['congestion']}"]
    lines.append(f"{'client':15} {'way':4} {'what':6} {'configured':>17} {'measured':>11} {'error':>9}")
    for each in result["checks"]:
        scale, unit = UNITS[each["what"]]
        lines.append(
            f"{each['client'][:15]:15} {each['direction']:4} {each['what']:6} "
            f"{each['configured'] / scale:10.4g} {unit:6} {each['measured'] / scale:11.4g} "
            f"{each['error_percent']:+7.2f} %" + ("" if each["ok"] else f" over {each['allowed_percent']:.1f} %")
        )
    return "\n".join(lines)


@click.command(context_settings={"show_default": True}, short_help="Let a host measure this device.")
@click.argument("where", metavar="HOST:PORT")
@click.option("--name", default="", metavar="ADDRESS", help="The address that is shaped, of a device with several.")
@click.option("--congestion", default="", metavar="NAME", help="TCP's congestion control; empty: the system's own.")
def join(where: str, name: str, congestion: str) -> None:
    """Let the machine at HOST:PORT measure the link of this device.

    To be run on a device, without privileges, where `splitcom link check INTERFACE` asks for it. Until that ends this
    sends and receives as much as it is told, to and from HOST only.
    """
    from testbed.links.joining import join as join_check

    with one_line_errors():
        host, _, port = where.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise SettingsError(f"link join: {where!r}; valid: HOST:PORT, as `splitcom link check` prints it")
        done = join_check(host, int(port), congestion=congestion, own=name)
        if not done:
            raise SettingsError(f"link join: {where} ended before anything was measured; see the check there")
    click.echo(f"measured; what came out is told at {host}", err=True)

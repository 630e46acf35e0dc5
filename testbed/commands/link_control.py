"""`splitcom link show`, `set`, `clear`, `reset` and `exec`: the links that there are, seen and changed from outside."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import click

from broker.errors import SettingsError
from broker.program import one_line_errors
from testbed.commands.link_options import Report, carry_out, commands, dry_run_option, json_option, out


@click.command(short_help="The links that there are now.")
@click.argument("target", required=False)
@json_option
def show(target: str | None, as_json: bool) -> None:
    """The links that there are now: of runs that go on, of devices, and what killed runs left.

    TARGET is the name of a run or an interface; without it all are shown. Fails after showing the rest where something
    cannot be shown.
    """
    from testbed.links.control import show as show_links

    _finish(carry_out(show_links(target)), as_json, _owners)


@click.command(name="set", short_help="Give a link another profile.")
@click.argument("target")
@click.argument("profile", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Replace a queueing discipline that somebody else set up.")
@click.option("--hold", is_flag=True, help="Stay, play rates that vary, and give a device back on Ctrl-C.")
@dry_run_option
@json_option
def set_(target: str, profile: tuple[str, ...], force: bool, hold: bool, dry_run: bool, as_json: bool) -> None:
    """Give the link of TARGET a PROFILE, from now on.

    TARGET is RUN/CLIENT for a run that goes on (RUN/all: all of its links), or INTERFACE/ADDRESS for a device behind
    an interface of this machine: eth0/192.168.1.13.

    The profile of a device stays when this has ended, so its rates have to be constant. With --hold they may vary
    (steps or csv:FILE, whose last step is for good), and are played for as long as this runs. After Ctrl-C the device
    has the profile that it had before, or is not shaped if it had none.
    """
    from testbed.links import control

    text = " ".join(profile)
    if not hold:
        out(carry_out(control.set_link(target, text, force, dry_run)), as_json, commands if dry_run else _said)
    elif dry_run:
        out(carry_out(control.planned_hold(target, text, force)), as_json, commands)
    else:
        carry_out(control.hold_link(target, text, force, lambda done: out(done, as_json, _said), _warn))


@click.command(short_help="Take the shaping from a link or an interface.")
@click.argument("target")
@dry_run_option
@json_option
def clear(target: str, dry_run: bool, as_json: bool) -> None:
    """Take the shaping away from TARGET: RUN/CLIENT, INTERFACE/ADDRESS, or a whole RUN or INTERFACE."""
    from testbed.links.control import clear_link

    out(carry_out(clear_link(target, dry_run)), as_json, commands if dry_run else _said)


@click.command(short_help="Remove what killed runs left.")
@dry_run_option
@json_option
def reset(dry_run: bool, as_json: bool) -> None:
    """Remove what killed runs left, and all shaping of interfaces; runs that go on are left alone.

    Fails after removing the rest where something cannot be removed.
    """
    from testbed.links.control import reset_all

    _finish(carry_out(reset_all(dry_run)), as_json, commands if dry_run else _said)


@click.command(
    name="exec", context_settings={"allow_interspersed_args": False}, short_help="Run a command where a client is."
)
@click.argument("target")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(target: str, command: tuple[str, ...]) -> None:
    """Run a COMMAND where a client of a run that goes on is: `exec RUN/agent0 -- ping 10.77.0.1`.

    TARGET is RUN/CLIENT, or RUN/server for where broker and server are. The exit status is the command's.
    """
    from testbed.links.control import prefix

    command = command[1:] if command[0] == "--" else command
    with one_line_errors():
        if not command:
            raise SettingsError("link exec: no command; valid: link exec RUN/CLIENT -- COMMAND")
        words = [*prefix(target), *command]
        for program in (words[0], command[0]):
            if shutil.which(program) is None:
                raise SettingsError(f"link exec: no program {program!r}; valid: one on PATH, or a path to one")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would inherit that
    os.execvp(words[0], words)


def _finish(result: dict[str, Any], as_json: bool, report: Report) -> None:
    """Print a result, and what it complains about; the exit status says whether it does."""
    out(result, as_json, report)
    if result["complaints"]:
        if not as_json:
            click.echo("\n".join(f"error: {complaint}" for complaint in result["complaints"]), err=True)
        raise click.exceptions.Exit(1)


def _owners(result: dict[str, Any]) -> str:
    lines = []
    for owner in result["owners"]:
        lines.append(f"{owner['name']}: {owner['backend']}" + (f", {owner['note']}" if owner.get("note") else ""))
        for name, text in owner.get("links", {}).items():
            note = owner.get("notes", {}).get(name)
            lines.append(f"  {name}: {text}" + (f" ({note})" if note else ""))
            for way, counts in owner.get("counters", {}).get(name, {}).items():
                words = [f"{key} {value}" for key, value in counts.items()]
                lines.append(f"    {way}: {', '.join(words)}")
    return "\n".join(lines) or "no links are emulated here"


def _said(result: dict[str, Any]) -> str:
    return "\n".join(result["done"]) or "nothing to do"


def _warn(text: str) -> None:
    click.echo(text, err=True)

"""The subcommands of `splitcom broker`: what there is to do besides running it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from getpass import GetPassWarning
from pathlib import Path

import click

from broker.broker_config import BrokerConfig
from broker.errors import SettingsError
from broker.mosquitto_config import PLUGINS, VERSIONS, Version, export
from broker.program import OneLine, one_line_errors
from broker.users import delete_user, set_password


@click.command(cls=OneLine)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--delete", is_flag=True, help="Take the user away instead.")
def passwd(file: Path, name: str, from_stdin: bool, delete: bool) -> None:
    """Give the user NAME a password in FILE, which is made if need be; a running broker reads it on SIGHUP."""
    with one_line_errors():
        if delete:
            delete_user(file, name)
        elif from_stdin:
            set_password(file, name, sys.stdin.readline().rstrip("\r\n") if sys.stdin else "")
        else:
            set_password(file, name, _asked())


def _asked() -> str:
    """The password that somebody types twice; SettingsError where nobody can, or where it would be seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)
        try:
            return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
        except (GetPassWarning, AttributeError):  # no terminal, and standard input closed too
            raise SettingsError("no terminal to ask for the password; valid: --stdin") from None


@click.command("export-mosquitto", cls=OneLine, context_settings={"show_default": True})
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--mosquitto", "version", type=click.Choice(VERSIONS), default="2.0", help="Its version.")
@click.option("--plugins", type=click.Path(path_type=Path), default=PLUGINS, help="Where 2.1 has its plugins.")
@click.pass_obj
def export_mosquitto(settings: Callable[[], BrokerConfig], directory: Path, version: Version, plugins: Path) -> None:
    """Write the settings that stand before this command to DIRECTORY, as a configuration of mosquitto."""
    with one_line_errors():
        for path in export(settings(), directory, version, plugins):
            print(path)

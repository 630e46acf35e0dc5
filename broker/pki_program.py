"""The command `splitcom pki`: a certificate authority for the devices of a laboratory."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.program import OneLine, fail, one_line_errors

if TYPE_CHECKING:
    from broker.pki import Pki


class Group(OneLine, click.Group):
    """A group of commands whose usage errors are one line."""

    command_class = OneLine


@click.group(name="pki", cls=Group)
def main() -> None:
    """Make and revoke the certificates of a broker and its devices."""


@main.command(context_settings={"show_default": True})
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--name", default="splitcom", metavar="NAME", help="What the authority is called.")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A host of the broker.  [default: this machine]")
@click.option("--force", is_flag=True, help="Replace an authority that is there already.")
def init(directory: Path, name: str, hosts: tuple[str, ...], force: bool) -> None:
    """Make an authority in DIRECTORY, and the broker's certificate."""
    with one_line_errors():
        pki = _pki().create(directory, name, hosts, force)
        print(f"authority {name}: {pki.path('ca', 'crt')}")
        print(f"broker on {', '.join(pki.hosts)}: {pki.path('broker', 'crt')}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--days", type=int, metavar="N", help="How long the certificate is good.  [default: 365, broker 825]")
@click.option("--force", is_flag=True, help="Replace the certificate that the name has, and revoke it.")
def issue(directory: Path, name: str, days: int | None, force: bool) -> None:
    """Make a key and a certificate for the device NAME, or the broker's anew."""
    with one_line_errors():
        pki = _pki()(directory)
        issued = pki.issue(name, days, force)
        print(f"{name}, until {issued.not_after[:10]}: {pki.path(name, 'crt')}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("name")
def revoke(directory: Path, name: str) -> None:
    """Take back the certificates of NAME; brokers know it when they have read the list again (SIGHUP)."""
    with one_line_errors():
        pki = _pki()(directory)
        count = pki.revoke(name)
        print(f"revoked {count} of {name}: {pki.revocations}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
def show(directory: Path) -> None:
    """List what has been issued."""
    with one_line_errors():
        now = dt.datetime.now(dt.UTC)
        for entry in _pki()(directory).issued:
            print(f"{entry.name:<20} {entry.state(now):<8} until {entry.not_after[:10]}  serial {entry.serial}")


def _pki() -> type[Pki]:
    """The class, whose module needs a package that the programs of a run do not."""
    try:
        from broker.pki import Pki
    except ImportError:
        fail("splitcom pki needs the package cryptography; valid: splitcom[pki] installed")
    return Pki


if __name__ == "__main__":
    main(prog_name="python -m broker.pki_program")

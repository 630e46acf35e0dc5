"""`splitcom link check` and `join` as commands: what they plan, and what they refuse in one line."""

from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner, Result

from testbed.__main__ import main
from testbed.links import namespaces
from testbed.links.capabilities import capabilities, why_not
from tests.refusals import check_refused
from tests.testbed.links.needs import needs


def link(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["link", *arguments], prog_name="splitcom")


@needs("netns")
def test_a_plan_is_the_same_as_text_and_as_json() -> None:
    before = namespaces.listed("splitcom-check-")
    asked = ("check", "up=5mbit", "--backend", "netns", "--clients", "2", "--dry-run")
    text, table = link(*asked), link(*asked, "--json")
    assert json.loads(table.stdout) == {"commands": text.stdout.splitlines()}
    assert text.stdout.splitlines()[-1] == "ip netns del splitcom-check-client-client1"
    assert (text.stderr, table.stderr) == ("", "")
    assert namespaces.listed("splitcom-check-") == before


@needs("netns")
def test_what_this_machine_cannot_run_is_planned_and_said() -> None:
    done = link("check", "delay=30ms", "loss=1%", "--backend", "netns", "--dry-run")
    assert done.exit_code == 0
    assert any(" netem limit " in line and "delay 30000us loss 1%" in line for line in done.stdout.splitlines())
    refusal = why_not("netns", {"delay", "loss"}, capabilities())
    assert done.stderr == (f"not runnable here: {refusal}\n" if refusal else "")


def test_a_link_that_is_not_shaped_has_no_commands() -> None:
    for backend in ("auto", "none"):
        done = link("check", "unlimited", "--backend", backend, "--dry-run", "--json")
        assert json.loads(done.stdout) == {"commands": []}


def test_what_no_machine_can_emulate_is_not_planned() -> None:
    check_refused(
        link("check", "loss=1%", "--backend", "proxy", "--dry-run"), "proxy does not emulate loss; valid for it: netns"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "nowhere"), "link profile 'nowhere' is unknown; valid: 3g, dsl"),
        (("check", "nowhere"), ", or an interface: lo"),
        (("check", "lo", "up=1mbit"), "link profile 'lo' is unknown"),
        (("check", "lo", "--clients", "2"), "--clients is for a check of links that it makes; valid: --seconds"),
        (("check", "lo", "--backend", "tun"), "--backend is for a check of links that it makes"),
        (("check", "lo", "--dry-run"), "--dry-run is for a check of links that it makes"),
        (("check", "lo", "--scenario", "e2e"), "give a PROFILE, an INTERFACE or --scenario"),
        (("check", "up=1mbit", "--port", "4000"), "--port is for a check of devices; valid: with an INTERFACE"),
        (("check", "--scenario", "e2e", "--wait", "5s"), "--wait is for a check of devices"),
        (("check", "lo", "--port", "65536"), "65536 is not in the range 0<=x<=65535"),
        (("check", "lo", "--wait", "5"), "--wait: '5'; valid: a time with its unit, such as 30ms"),
        (("join",), "Missing argument 'HOST:PORT'"),
        (("join", "127.0.0.1"), "'127.0.0.1'; valid: HOST:PORT, as `splitcom link check` prints it"),
        (("join", ":4000"), "':4000'; valid: HOST:PORT"),
        (("join", "127.0.0.1:0"), "'127.0.0.1:0'; valid: HOST:PORT"),
        (("join", "127.0.0.1:99999"), "'127.0.0.1:99999'; valid: HOST:PORT"),
        (("join", "no.such.host.invalid:4000"), "no.such.host.invalid:4000: "),
        (("join", "127.0.0.1:4000", "--congestion", "nosuch"), "congestion: 'nosuch'"),
        (("join", "127.0.0.1:4000", "--name", "192.0.2.7"), "from 192.0.2.7 to 127.0.0.1:4000: Cannot assign"),
        (("join", "127.0.0.1:4000", "--name", "phone"), "from phone to 127.0.0.1:4000: "),
    ],
)
def test_bad_input_gets_one_line_that_names_it(arguments: tuple[str, ...], said: str) -> None:
    check_refused(link(*arguments), said)


def test_joining_what_is_no_longer_there_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_refused(link("join", f"127.0.0.1:{port}"), f"127.0.0.1:{port}: Connection refused; valid: what `splitcom")


def test_help_fits_a_terminal_of_80_columns() -> None:
    for name in ("check", "join"):
        assert max(map(len, link(name, "--help").stdout.splitlines())) <= 80

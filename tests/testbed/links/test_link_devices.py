"""`splitcom link` with devices behind an interface: measured where they join, and held while rates are played."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.links import namespaces
from tests.testbed.links.apart import Apart
from tests.testbed.links.lan import ADDRESS, INTERFACE, Lan, address
from tests.testbed.links.test_driver import ELSEWHEN, elsewhen
from tests.testbed.test_processes import surroundings

POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


@pytest.fixture
def apart() -> Iterator[Apart]:
    with Apart() as made:
        yield made


@contextlib.contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A command with its streams, which has ended in the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=surroundings()) as process:
        try:
            yield process
        finally:
            process.kill()


def link(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "testbed", "link", *arguments)


def line(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The next line on standard error that matches."""
    assert process.stderr is not None
    seen = ""
    for text in process.stderr:
        seen += text
        if found := re.search(pattern, text):
            return found
    raise AssertionError(seen)


@contextlib.contextmanager
def checking(apart: Apart, lan: Lan, *options: str, joining: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A check of the interface, with so many devices that join: without privileges, and with a clock of their own."""
    with contextlib.ExitStack() as stack:
        command = apart.within(*link("check", INTERFACE, "--seconds", "2", *options), network=lan.host)
        check = stack.enter_context(program(*command))
        where = line(check, rf"splitcom link join ({re.escape(ADDRESS)}:\d+)")[1]
        for number in range(joining):
            place = (*namespaces.prefix(lan.device(number)), *ELSEWHEN, *POWERLESS)
            stack.enter_context(program(*place, *link("join", where)))
        yield check


def shown(apart: Apart, lan: Lan) -> dict[str, Any]:
    owner: dict[str, Any] = json.loads(apart.on(lan, "show", INTERFACE, "--json").stdout)["owners"][0]
    return owner


@pytest.mark.slow
@elsewhen
def test_devices_that_join_are_measured(apart: Apart) -> None:
    profiles = {address(0): "up=4mbit down=10mbit", address(1): "up=2mbit down=20mbit"}
    with Lan(devices=2) as lan:
        for device, text in profiles.items():
            assert apart.on(lan, "set", f"{INTERFACE}/{device}", *text.split()).returncode == 0
        for _ in range(3):
            with checking(apart, lan, "--json", joining=2) as check:
                out, complaint = check.communicate()
            if check.returncode == 0:
                break
        assert check.returncode == 0, out + complaint
        after = shown(apart, lan)
    result = json.loads(out)
    assert result["backend"] == "host"
    assert result["profiles"] == profiles
    assert [(each["client"], each["direction"], each["what"], each["configured"]) for each in result["checks"]] == [
        (address(0), "up", "rate", 4e6),
        (address(0), "down", "rate", 10e6),
        (address(1), "up", "rate", 2e6),
        (address(1), "down", "rate", 20e6),
    ]
    assert result["facts"]["rx_gro"] in (True, False)
    assert result["facts"]["kernel_links"][address(1)]["down"]["rate_bps"] == 20e6
    assert all(0 < own_ms < 1000 for own_ms in result["facts"]["own_round_trip_ms"].values())
    assert (after["links"], after["notes"]) == (profiles, {})


@pytest.mark.slow
@elsewhen
def test_a_device_that_is_slower_than_its_profile_fails(apart: Apart, lan: Lan) -> None:
    apart.on(lan, "set", f"{INTERFACE}/{address(0)}", "up=4mbit", "down=4mbit")
    device = ["ip", "netns", "exec", lan.device(0)]
    own = "tc qdisc add dev eth0 root tbf rate 2mbit burst 5kb latency 100ms"
    subprocess.run([*device, *own.split()], check=True)
    with checking(apart, lan) as check:
        out, _ = check.communicate()
    assert check.returncode == 1
    lines = out.splitlines()
    assert lines[0] == "host: devices behind eth0"
    assert re.fullmatch(rf"{address(0)} +up +rate +4 Mbit/s +\S+ +-\d+\.\d\d % over 5\.\d %", lines[3])


@pytest.mark.slow
@elsewhen
def test_devices_that_do_not_join_are_named(apart: Apart) -> None:
    with Lan(devices=2) as lan:
        for number in range(2):
            apart.on(lan, "set", f"{INTERFACE}/{address(number)}", "up=4mbit")
        with checking(apart, lan, "--wait", "6s") as check:
            line(check, f"{address(0)} joined")
            out, complaint = check.communicate()
        assert check.returncode == 2
        assert out == ""
        assert complaint == f"error: {address(1)} did not join within 6 s; see `splitcom link join --help`\n"
        assert shown(apart, lan)["links"] == dict.fromkeys(map(address, range(2)), "up=4mbit")


@pytest.mark.slow
@elsewhen
def test_an_interrupted_check_leaves_the_links_as_they_were(apart: Apart, lan: Lan) -> None:
    apart.on(lan, "set", f"{INTERFACE}/{address(0)}", "up=4mbit", "down=5mbit")
    with checking(apart, lan) as check:
        line(check, "measuring")
        assert shown(apart, lan)["notes"] == {address(0): f"held by process {check.pid}"}
        refused = apart.on(lan, "set", f"{INTERFACE}/{address(0)}", "up=1mbit")
        assert "is held by process" in refused.stderr
        check.send_signal(signal.SIGINT)
        assert check.wait() == 130
    after = shown(apart, lan)
    assert (after["links"], after["notes"]) == ({address(0): "up=4mbit down=5mbit"}, {})


def test_a_check_of_an_interface_without_devices_says_what_to_do(apart: Apart, lan: Lan) -> None:
    done = apart.on(lan, "check", INTERFACE)
    assert done.returncode == 2
    said = "no device is shaped behind eth0; valid: after `splitcom link set eth0/ADDRESS PROFILE`"
    assert done.stderr == f"error: {said}\n"


@pytest.mark.slow
def test_a_rate_that_varies_is_played_until_it_is_interrupted(apart: Apart, lan: Lan) -> None:
    device, steps = f"{INTERFACE}/{address(0)}", ("up=1mbit+3mbit@1s", "down=5mbit")
    apart.on(lan, "set", device, "up=2mbit")
    refused = apart.on(lan, "set", device, *steps)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: up: the rate 1mbit+3mbit@1s varies")
    assert "--hold" in refused.stderr
    planned = apart.on(lan, "set", device, *steps, "--hold", "--dry-run").stdout.splitlines()
    assert planned[-1] == "(netlink, every 100 ms) up: 1mbit+3mbit@1s"
    with program(*apart.within(*link("set", device, *steps, "--hold"), network=lan.host)) as hold:
        assert hold.stdout is not None
        assert hold.stdout.readline() == f"{device}: up=1mbit+3mbit@1s down=5mbit, held until Ctrl-C\n"
        text = apart.on(lan, "show").stdout
        assert f"{address(0)}: up=1mbit+3mbit@1s down=5mbit (held by process {hold.pid})" in text
        hold.send_signal(signal.SIGINT)
        assert hold.wait() == 130
    after = shown(apart, lan)
    assert (after["links"], after["notes"]) == ({address(0): "up=2mbit"}, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("eth0/10.91.0.10", "up=mahimahi:{trace}", "--hold"),
            "back-end host does not emulate mahimahi; valid: a const",
        ),
        (("eth0/10.91.0.10", "up=mahimahi:{trace}"), "back-end host does not emulate mahimahi"),
        (("eth0", "up=1mbit+2mbit@1s", "--hold"), "'eth0' is no link; valid: INTERFACE/ADDRESS with --hold"),
        (("eth7/10.91.0.10", "up=1mbit+2mbit@1s", "--hold"), "'eth7' is neither a run that goes on nor an interface"),
    ],
)
def test_what_cannot_be_held_is_told_in_a_line(
    apart: Apart, lan: Lan, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    trace = tmp_path / "trace"
    trace.write_text("1\n2\n")
    done = apart.on(lan, "set", *(word.format(trace=trace) for word in arguments))
    assert done.returncode == 2
    assert re.fullmatch(r"error: [^\n]*\n", done.stderr)
    assert said in done.stderr

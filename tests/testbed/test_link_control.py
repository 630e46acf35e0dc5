"""`splitcom link set`, `clear` and `exec` on runs that go on, from another process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.links.apart import Apart
from tests.testbed.links.needs import needs
from tests.testbed.test_processes import surroundings

pytestmark = needs("netns")


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    with Apart() as made:
        yield made


@pytest.fixture(scope="module")
def runs(apart: Apart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs over every back-end, named by it; the directory that has their directories."""
    base = tmp_path_factory.mktemp("runs")
    with (
        apart.holding("netns", base / "netns", {"backend": "netns", "profile": "up=5mbit"}),
        apart.holding("proxy", base / "proxy", {"backend": "proxy", "profile": "up=5mbit"}),
    ):
        yield base


def events(directory: Path, what: str) -> list[str]:
    lines = (directory / "links.jsonl").read_text().splitlines()
    return [event["client"] for event in map(json.loads, lines) if event["event"] == what]


def profiles(apart: Apart, run: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(apart.link("show", run, "--json").stdout)["owners"][0]["links"]
    return found


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [
        (
            ("set", "netns/agent1", "up=2mbit", "down=1mbit+2mbit@9s"),
            [
                "tc -n splitcom-netns-hub class change dev u1 .* rate 2000000bit .*",
                "tc -n splitcom-netns-hub qdisc change dev u1 .*",
                "tc -n splitcom-netns-hub class change dev c1 .* rate 1000000bit .*",
                "tc -n splitcom-netns-hub qdisc change dev c1 .*",
                r"\(netlink, every 100 ms\) agent1 down: 1mbit\+2mbit@9s",
            ],
        ),
        (
            ("clear", "netns"),
            [
                f"tc -n splitcom-netns-hub (class|qdisc) change dev {device} .*"
                for device in ("u0", "u0", "c0", "c0", "u1", "u1", "c1", "c1")
            ],
        ),
        (("set", "proxy/all", "up=2mbit"), [rf"\(emulator\) set agent{number}: up=2mbit" for number in (0, 1)]),
        (("clear", "proxy/agent1"), [r"\(emulator\) set agent1: unlimited"]),
    ],
)
def test_a_dry_run_has_the_commands_of_the_owner_and_changes_nothing(
    apart: Apart, runs: Path, arguments: tuple[str, ...], commands: list[str]
) -> None:
    run = arguments[1].partition("/")[0]
    before = profiles(apart, run), events(runs / run, "set")
    done = apart.link(*arguments, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line, command in zip(lines, commands, strict=True) if not re.fullmatch(command, line)] == []
    assert json.loads(apart.link(*arguments, "--dry-run", "--json").stdout) == {"commands": lines}
    assert (profiles(apart, run), events(runs / run, "set")) == before


def test_set_and_clear_change_links_of_a_run_that_goes_on(apart: Apart, runs: Path, tmp_path: Path) -> None:
    with apart.holding("own", tmp_path / "own", {"backend": "netns", "profile": "up=5mbit"}):
        assert apart.link("set", "own/agent1", "up=2mbit").stdout == "own/agent1: up=2mbit\n"
        assert profiles(apart, "own") == {"agent0": "up=5mbit", "agent1": "up=2mbit"}
        assert apart.link("clear", "own").stdout == "own: not shaped\n"
        assert events(tmp_path / "own", "set") == ["agent1", "agent0", "agent1"]
        assert set(profiles(apart, "own").values()) == {"unlimited"}


def test_a_command_runs_where_the_client_is_and_its_exit_status_is_kept(apart: Apart, runs: Path) -> None:
    hello = (
        "import socket; s = socket.create_server(('10.77.0.1', 0)); print(s.getsockname()[1], flush=True); s.accept()"
    )
    reach = "import socket, sys; socket.create_connection(('10.77.0.1', int(sys.argv[1])), 5); sys.exit(7)"
    words = apart.within(sys.executable, "-m", "testbed", "link", "exec", "netns/server", sys.executable, "-c", hello)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=surroundings()) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert apart.link("exec", "netns/agent0", "--", sys.executable, "-c", reach, port).returncode == 7
    assert server.returncode == 0
    devices = apart.link("exec", "netns/hub", "--", "ip", "-o", "link").stdout
    assert "br0" in devices


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("exec", "netns/agent7", "true"), "'agent7' is no client of run netns; valid: agent0, agent1, hub, server"),
        (
            ("exec", "nowhere/agent0", "true"),
            "'nowhere' is no run that goes on and has emulated links; valid: netns/CLIENT",
        ),
        (("exec", "proxy/agent0", "true"), "since its back-end is proxy; valid: a run over netns or tun"),
        (("exec", "netns", "true"), "'netns' is no link; valid: RUN/CLIENT or RUN/server"),
        (("exec", "netns/agent0", "--"), "no command; valid: link exec RUN/CLIENT -- COMMAND"),
        (("exec", "netns/agent0", "--", "nosuch", "-x"), "no program 'nosuch'"),
        (("set", "netns/agent7", "lte", "--dry-run"), "'agent7' is no client of run netns; valid: agent0, agent1, all"),
        (("set", "proxy/agent0", "loss=1%", "--dry-run"), "proxy does not emulate loss"),
        (
            ("set", "nowhere/agent0", "lte"),
            "'nowhere' is neither a run that goes on nor an interface; valid: ",
        ),
        (("set", "old/agent0", "lte"), "run old was left by process"),
        (("clear", "netns/"), "'netns/' is no link; valid: RUN, RUN/CLIENT"),
        (("clear", "netns/agent7"), "'agent7' is no client"),
        (("set", "making/agent0", "lte"), "making takes no commands now"),
    ],
)
def test_bad_input_gets_one_line_that_names_it(apart: Apart, runs: Path, arguments: tuple[str, ...], said: str) -> None:
    apart.owner("old")
    apart.owner("making", alive=True)
    done = apart.link(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_links_that_are_being_made_are_shown_as_such(apart: Apart) -> None:
    apart.owner("making", alive=True)
    done = apart.link("show", "making")
    assert done.returncode == 0
    assert re.fullmatch(
        r"making: netns, process \d+ makes, measures or removes them and takes no commands\n", done.stdout
    )


def test_runs_over_relays_are_controlled_without_pyroute2(apart: Apart, runs: Path) -> None:
    code = "import sys; sys.modules['pyroute2'] = None; from testbed.__main__ import main; main(prog_name='splitcom')"

    def without(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = apart.within(sys.executable, "-c", code, "link", *arguments)
        return subprocess.run(words, check=False, capture_output=True, text=True, env=surroundings())

    assert "proxy: proxy\n" in without("show", "proxy").stdout
    assert without("set", "proxy/agent0", "up=2mbit").stdout == "proxy/agent0: up=2mbit\n"
    assert "'eth0' is neither a run" in without("clear", "eth0").stderr
    assert without("reset", "--dry-run").returncode == 0

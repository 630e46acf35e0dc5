"""`splitcom link`: what it prints, what it refuses in one line, and that it leaves nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from testbed.__main__ import main
from testbed.links import namespaces, registry
from tests.testbed.links.needs import needs


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No records but the test's own: `show` and `reset` take in all that there are."""
    monkeypatch.setattr(registry, "folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)


def link(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["link", *arguments], prog_name="splitcom")


def test_probe_says_of_every_back_end_whether_it_is_usable_and_why_not() -> None:
    found = json.loads(link("probe", "--json").stdout)
    assert set(found["backends"]) == {"none", "netns", "tun", "host", "proxy"}
    assert found["backends"]["proxy"]["why_not"] is None
    assert {"kernel", "capabilities", "qdiscs"} <= set(found["capabilities"])
    assert link("probe").stdout.startswith("kernel ")


@pytest.mark.slow
@needs("netns")
def test_check_holds_measured_against_configured() -> None:
    for _ in range(3):
        done = link("check", "up=4mbit", "down=8mbit", "--backend", "netns", "--seconds", "2", "--json")
        if done.exit_code == 0:
            break
    result = json.loads(done.stdout)
    assert done.exit_code == 0, result
    assert result["backend"] == "netns"
    assert [(each["direction"], each["what"], each["configured"]) for each in result["checks"]] == [
        ("up", "rate", 4e6),
        ("down", "rate", 8e6),
    ]
    assert all(abs(each["error_percent"]) < 2.5 for each in result["checks"])
    assert not [name for name in namespaces.listed("splitcom-check") if "client0" in name]


@needs("netns")
def test_a_dry_run_prints_commands_and_runs_none() -> None:
    before = namespaces.listed("splitcom-check-")
    done = link("check", "up=5mbit", "--backend", "netns", "--clients", "2", "--dry-run")
    lines = done.stdout.splitlines()
    assert lines[0] == "ip netns add splitcom-check-hub"
    assert any(re.match(r"tc -n splitcom-check-hub class add dev u1 .* rate 5000000bit", line) for line in lines)
    assert lines[-1] == "ip netns del splitcom-check-client-client1"
    assert namespaces.listed("splitcom-check-") == before


def test_show_and_reset_have_something_to_say_where_there_is_nothing() -> None:
    assert link("show").stdout == "no links are emulated here\n"
    assert json.loads(link("show", "--json").stdout) == {"owners": [], "complaints": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check",), "give a PROFILE, an INTERFACE or --scenario; valid: lte"),
        (("check", "nowhere"), "link profile 'nowhere' is unknown; valid: 3g, dsl"),
        (("check", "up=5mbits"), "up: '5mbits'; valid: a rate such as 5mbit"),
        (("check", "up=-5mbit"), "up: '-5mbit'; valid: a rate"),
        (("check", "loss=120%"), "up.loss: '120%' is out of range; valid: 0% to 100%"),
        (("check", "up=csv:zeros.csv"), "zeros.csv: up_bps: all rates are 0"),
        (("check", "up=csv:back.csv"), "back.csv: line 4: up_bps: times have to increase"),
        (("check", "up=mahimahi:back.trace"), "back.trace: line 2: times must not decrease"),
        (("check", "up=mahimahi:none.trace"), "none.trace: No such file"),
        (("check", "up=5mbit", "loss=1%", "--backend", "proxy"), "proxy does not emulate loss; valid for it:"),
        (("check", "up=5mbit", "--backend", "wires"), "links.backend: 'wires' is unknown; valid: auto"),
        (("check", "up=5mbit", "--congestion", "nosuch"), "congestion: 'nosuch'"),
        (("check", "--scenario", "nosuch"), "scenario 'nosuch' is unknown"),
        (("set", "nowhere/10.0.0.1", "lte"), "'nowhere' is neither a run that goes on nor an interface"),
        (("set", "nowhere", "lte"), "'nowhere' is no link; valid: RUN/CLIENT"),
        (("clear", "nowhere"), "'nowhere' is neither a run that goes on nor an interface"),
        (("show", "nowhere"), "no links of 'nowhere'"),
    ],
)
def test_bad_input_gets_one_line_that_names_it(arguments: tuple[str, ...], said: str) -> None:
    Path("zeros.csv").write_text("t_s,up_bps,down_bps\n0,0,0\n1,0,0\n")
    Path("back.csv").write_text("t_s,up_bps,down_bps\n0,1000,1000\n2,1,1\n1,1,1\n")
    Path("back.trace").write_text("5\n3\n")
    done = link(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_help_fits_a_terminal_of_80_columns() -> None:
    for arguments in (
        ["--help"],
        *([name, "--help"] for name in ("probe", "check", "show", "set", "clear", "reset", "exec")),
    ):
        assert max(map(len, link(*arguments).stdout.splitlines())) <= 80

"""What killed runs leave: seen, removed by `splitcom link reset` or by the next run, and nothing else with it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.engines import find_mosquitto
from testbed.links import namespaces, registry
from testbed.links.errors import LinkError
from testbed.links.lab import Lab
from testbed.links.links_config import LinksConfig
from testbed.links.registry import INTERFACE, PREFIX
from testbed.links.reset import reset
from tests.testbed.links.apart import Apart
from tests.testbed.links.lan import INTERFACE as ETH0
from tests.testbed.links.lan import Lan, address, shell
from tests.testbed.links.needs import needs
from tests.testbed.test_processes import children, outlived

pytestmark = needs("netns")
NETNS = {"backend": "netns", "profile": "up=5mbit"}


@pytest.fixture
def apart() -> Iterator[Apart]:
    with Apart() as made:
        yield made


@pytest.mark.slow
@pytest.mark.skipif(find_mosquitto() is None, reason="no program mosquitto on PATH or in /usr/sbin")
@pytest.mark.parametrize("backend", ["netns", pytest.param("tun", marks=needs("tun"))])
def test_after_a_run_was_killed_no_process_and_no_namespace_is_left(apart: Apart, tmp_path: Path, backend: str) -> None:
    with apart.holding("killed", tmp_path / "run", NETNS | {"backend": backend}, "mosquitto") as process:
        below = children(process.pid)
        stray = {pid for pid, command in below.items() if command.startswith("sleep")}
        assert len(stray) == 1
        assert any(" -c " in command and "mosquitto" in command for command in below.values())
        with outlived(list(stray)):
            with outlived(list(set(below) - stray)):
                process.kill()
            made = apart.namespaces()
            assert "splitcom-killed-client-agent0" in made
            assert "has ended; `splitcom link reset` removes it" in apart.link("show").stdout

            planned = apart.link("reset", "--dry-run")
            assert set(planned.stdout.splitlines()) == {
                f"kill -KILL {next(iter(stray))}",
                *(f"ip netns del {name}" for name in made),
            }
            as_json = json.loads(apart.link("reset", "--dry-run", "--json").stdout)
            assert as_json == {"commands": planned.stdout.splitlines(), "complaints": []}
            assert apart.namespaces() == made

            done = apart.link("reset")
            assert done.stdout == f"run killed: {len(made)} namespaces removed\n", done.stderr
    assert apart.namespaces() == []
    assert list((apart.run / "splitcom").iterdir()) == []
    assert apart.link("reset").stdout == "nothing to do\n"


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_removed_by_the_next_of_its_name(apart: Apart, tmp_path: Path) -> None:
    with apart.holding("again", tmp_path / "first", NETNS | {"profile": "up=5mbit down=5mbit"}) as process:
        process.kill()
        process.wait()
    with apart.holding("again", tmp_path / "second", NETNS):
        assert json.loads(apart.link("show", "--json").stdout)["owners"][0]["links"] == {
            "agent0": "up=5mbit",
            "agent1": "up=5mbit",
        }
    assert apart.namespaces() == []


def test_reset_leaves_a_run_that_goes_on_alone(apart: Apart, tmp_path: Path) -> None:
    with apart.holding("lives", tmp_path / "run", NETNS):
        made = apart.namespaces()
        assert apart.link("reset").stdout == "nothing to do\n"
        assert apart.namespaces() == made


@pytest.fixture
def run() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


def lab(run: str, directory: Path) -> Lab:
    return Lab(run, LinksConfig(**NETNS, calibrate_s=0), ["agent0"], directory)


def test_a_run_that_cannot_write_its_record_of_links_leaves_none(run: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab(run, tmp_path / "absent"):
            raise AssertionError

    with pytest.raises(FileNotFoundError):
        asyncio.run(go())
    assert registry.find(run) is None


def test_a_namespace_that_was_there_is_refused_and_stays(run: str, tmp_path: Path) -> None:
    name = f"{PREFIX}{run}-client-agent0"
    shell(f"ip netns add {name}")

    async def go() -> None:
        async with lab(run, tmp_path):
            raise AssertionError

    try:
        with pytest.raises(LinkError, match=f"{name} exists already"):
            asyncio.run(go())
        assert [each for each in namespaces.listed(PREFIX) if run in each] == [name]
        assert registry.find(run) is None
    finally:
        shell(f"ip netns del {name}")


def test_a_run_whose_links_cannot_be_removed_stays_on_record(run: str, tmp_path: Path) -> None:
    server = namespaces.FOLDER / f"{PREFIX}{run}-server"

    async def go() -> None:
        async with lab(run, tmp_path):
            shell(f"ip netns del {server.name}")
            server.mkdir()  # no namespace, so it cannot be removed as one

    with pytest.raises(LinkError, match=f"ip netns del {server.name}"):
        asyncio.run(go())
    server.rmdir()
    owner = registry.find(run)
    assert owner is not None
    asyncio.run(reset(owner))
    assert registry.find(run) is None
    assert not [each for each in namespaces.listed(PREFIX) if run in each]


@pytest.mark.slow
def test_namespaces_whose_record_is_lost_are_removed_with_what_runs_in_them(apart: Apart, tmp_path: Path) -> None:
    with apart.holding("lost", tmp_path / "run", NETNS, "embedded") as process:
        below = children(process.pid)
        with outlived(list(below)):
            process.kill()
            made = apart.namespaces()
            apart.record("lost").unlink()
            assert apart.link("reset").stdout.splitlines() == [f"namespace {name}: removed" for name in made]
    assert apart.namespaces() == []


@pytest.mark.slow
def test_show_and_reset_go_on_past_what_they_cannot_read_or_reach(apart: Apart, tmp_path: Path) -> None:
    apart.record("broken").write_text("{")
    apart.record(f"{INTERFACE}gone0").write_text('{"namespaces": [], "color": 3}')
    apart.owner("silent", alive=True)
    apart.record("silent").with_suffix(".sock").touch()
    with apart.holding("killed", tmp_path / "run", NETNS) as process:
        process.kill()
        process.wait()
    with apart.holding("lives", tmp_path / "other", NETNS):
        for name in ("splitcom-broken-server", "splitcom-orphan-server"):
            subprocess.run(apart.within("ip", "netns", "add", name), check=True)
        shown = apart.link("show")
        assert shown.returncode == 1
        assert "killed: netns, left by process" in shown.stdout
        assert "lives: netns\n  agent0: up=5mbit" in shown.stdout
        complaints = shown.stderr.splitlines()
        assert all(line.startswith("error: /run/splitcom/") for line in complaints)
        assert [re.findall(r"splitcom/(\S+)\.json", line)[0] for line in complaints] == ["@gone0", "broken", "silent"]
        assert "tc qdisc show dev gone0" in complaints[0]
        assert "remove this file when the run 'broken' has ended" in complaints[1]

        done = apart.link("reset", "--json")
        assert done.returncode == 1
        result = json.loads(done.stdout)
        assert result["done"] == ["run killed: 4 namespaces removed", "namespace splitcom-orphan-server: removed"]
        assert result["complaints"] == [line.removeprefix("error: ") for line in complaints[:2]]
        left = apart.namespaces()
    assert {name for name in left if "lives" not in name} == {"splitcom-broken-server"}


@pytest.mark.parametrize(
    "values",
    [{"backend": "host", "interface": "lo"}, {"backend": "host"}, {"namespaces": ("splitcom-stuck-server",)}],
)
def test_what_cannot_be_removed_is_named_and_kept_on_record(apart: Apart, values: dict[str, Any]) -> None:
    name = f"{INTERFACE}{values.get('interface', '')}" if "backend" in values else "stuck"
    apart.owner(name, **values)
    (apart.run / "netns" / "splitcom-stuck-server").mkdir(parents=True)  # no namespace, so it cannot be entered
    apart.owner("old")
    done = apart.link("reset")
    assert done.returncode == 1
    assert "run old: 0 namespaces removed\n" in done.stdout
    assert f"error: /run/splitcom/{name}.json: " in done.stderr
    assert "Traceback" not in done.stderr
    assert apart.record(name).exists()
    assert not apart.record("old").exists()


@pytest.mark.slow
def test_dry_runs_on_an_interface_print_what_would_be_done_and_do_nothing(apart: Apart) -> None:
    with Lan() as lan:
        before = lan.shown(ETH0)

        def planned(*arguments: str) -> list[str]:
            done = apart.on(lan, *arguments, "--dry-run")
            assert done.returncode == 0, done.stderr
            commands: list[str] = json.loads(apart.on(lan, *arguments, "--dry-run", "--json").stdout)["commands"]
            assert done.stdout.splitlines() == (commands or ["nothing to do"])
            return commands

        device = f"{ETH0}/{address(0)}"
        assert f"tc qdisc add dev {ETH0} root handle 1: htb" in " ".join(planned("set", device, "up=5mbit"))
        assert planned("reset") == []
        assert apart.on(lan, "clear", device, "--dry-run").returncode == 2
        assert lan.shown(ETH0) == before

        for number in (0, 1):
            assert apart.on(lan, "set", f"{ETH0}/{address(number)}", "up=5mbit").returncode == 0
        shaped = lan.shown(ETH0)
        one, everything = planned("clear", device), planned("clear", ETH0)
        assert not [command for command in one if "qdisc del" in command]
        assert planned("reset") == everything
        assert f"tc qdisc del dev {ETH0} root" in everything
        assert lan.shown(ETH0) == shaped
        for command in everything:
            shell(f"ip netns exec {lan.host} {command}")
        assert lan.shown(ETH0) == before
        assert apart.on(lan, "reset").returncode == 0
        assert lan.shown(ETH0) == before

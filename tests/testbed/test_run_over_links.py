"""Real runs over emulated links: the agents' traffic crosses them, is counted there, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from testbed.links import namespaces
from tests.runs import run_tiny
from tests.testbed.links.needs import needs
from tests.testbed.test_processes import arguments, scenario, started

pytestmark = pytest.mark.slow

PROFILES = {
    "netns": "up=8mbit down=16mbit",
    "tun": "up=8mbit down=16mbit delay=5ms loss=0.2%",
    "proxy": "up=8mbit down=16mbit delay=5ms",
}


def over(base: Path, backend: str, name: str, **layer: Any) -> Any:
    links = {"backend": backend, "profile": PROFILES[backend], "congestion": "cubic"} | layer
    return scenario(base, name=name, links=links)


@pytest.mark.parametrize("backend", [pytest.param(name, marks=needs(name)) for name in PROFILES])
@pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
def test_a_run_over_links_sends_what_it_sends_in_memory(
    backend: str, broker: str, tiny_base: Path, tmp_path: Path
) -> None:
    made = over(tiny_base, backend, f"links-{backend}-{broker}")
    plain = run_tiny(scenario(tiny_base), tmp_path / "memory")
    (tmp_path / "over").mkdir()
    with started([*arguments(made, tmp_path / "over", "--json", "--broker", broker)], stdout=-1) as process:
        out, complaint = process.communicate()
    assert process.returncode == 0, complaint
    summary = json.loads(out)
    links = summary["links"]
    assert links["backend"] == backend
    assert all(check["ok"] for check in links["checks"])
    assert {"agent0", "agent1"} == set(links["counters"])
    assert summary["perplexity"] == plain["perplexity"]
    for way in ("up", "down"):
        assert summary[way]["kinds"] == plain[way]["kinds"]
        assert summary[way]["wire_bytes"] <= summary[way]["tcp_bytes"]
        if backend != "proxy":
            explained = summary[way]["tcp_bytes"] + summary[way]["ip_header_bytes"]
            assert summary[way]["tcp_bytes"] < summary[way]["ip_bytes"]
            assert 0 <= summary[way]["ip_bytes"] - explained < 0.1 * summary[way]["ip_bytes"]
    assert not [name for name in namespaces.listed("splitcom-") if made.name in name]


@needs("netns")
def test_a_run_that_cannot_have_its_links_leaves_no_directory(tiny_base: Path, tmp_path: Path) -> None:
    made = over(tiny_base, "proxy", "links-refused", profile="up=5mbit loss=1%")
    with started(arguments(made, tmp_path)) as process:
        _, complaint = process.communicate()
    assert process.returncode == 2
    assert "proxy does not emulate loss" in complaint
    assert not (tmp_path / "run").exists()


@needs("netns")
def test_ctrl_c_takes_the_links_away(tiny_base: Path, tmp_path: Path) -> None:
    made = over(tiny_base, "netns", "links-stopped")
    with started(arguments(made, tmp_path)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting a server" in line:
                process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    assert not [name for name in namespaces.listed("splitcom-") if made.name in name]


@needs("tun")
def test_an_emulator_that_dies_ends_the_run_at_once_and_keeps_what_there_is(tiny_base: Path, tmp_path: Path) -> None:
    made = over(tiny_base, "tun", "links-died")
    with started(arguments(made, tmp_path)) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "starting a server" in line:
                emulators = [
                    int(child)
                    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                    if b"testbed.links.emulator" in Path(f"/proc/{child}/cmdline").read_bytes()
                ]
                for emulator in emulators:
                    os.kill(emulator, signal.SIGKILL)
        process.wait()
    assert process.returncode == 1
    assert any("the tun emulator ended" in line for line in said), said
    assert "the tun emulator ended" in json.loads((tmp_path / "run" / "summary.json").read_text())["end"]
    assert not [name for name in namespaces.listed("splitcom-") if made.name in name]

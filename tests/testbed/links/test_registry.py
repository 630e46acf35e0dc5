"""Records of who has links here, and what becomes of those whose process is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from testbed.links import registry
from testbed.links.errors import LinkError
from testbed.links.registry import Owner


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "folder", lambda: tmp_path)
    return tmp_path


def test_a_record_is_of_a_process_that_lives() -> None:
    with registry.owned("run", "netns", ("splitcom-no-such-server",)) as owner:
        assert registry.find("run") == owner
        assert owner.alive
        assert registry.owners() == [owner]
    assert registry.owners() == []


def test_a_name_in_use_is_refused_with_its_process() -> None:
    with (
        registry.owned("run", "netns"),
        pytest.raises(LinkError, match=f"process {os.getpid()}"),
        registry.owned("run", "tun"),
    ):
        raise AssertionError


def test_a_process_that_was_killed_is_no_longer_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    Owner("run", "netns", process.pid, registry.start_of(process.pid)).write()
    found = registry.find("run")
    assert found is not None
    assert found.alive
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not found.alive  # although nobody has waited for it
    process.wait()
    assert not found.alive


def test_another_process_of_the_same_number_is_not_the_owner() -> None:
    Owner("run", "netns", os.getpid(), registry.start_of(os.getpid()) - 1).write()
    found = registry.find("run")
    assert found is not None
    assert not found.alive


def record(**values: Any) -> str:
    return json.dumps(asdict(Owner("run", "netns")) | values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "does not have the keys name, backend"),
        ('{"namespaces": [], "color": 3}', "does not have the keys"),
        (record(pid="12"), "each of its type"),
        (record(name="another"), "of the name 'another'"),
        (record(namespaces=["server"]), "does not begin with splitcom-"),
        ("\0\xff", "record"),
    ],
)
def test_a_record_that_is_none_is_named_and_stops_no_other(records: Path, text: str, said: str) -> None:
    (records / "run.json").write_bytes(text.encode("latin-1"))
    other = Owner("other", "netns")
    other.write()
    with pytest.raises(LinkError, match=rf"run\.json: .*{said}"):
        registry.find("run")
    assert registry.owners() == [other]
    assert list(registry.unreadable()) == ["run"]
    assert "remove this file when the run 'run' has ended" in registry.unreadable()["run"]


def test_an_interface_whose_record_cannot_be_read_is_to_be_looked_at_by_hand(records: Path) -> None:
    (records / "@eth0.json").mkdir()
    assert "Is a directory; remove what `tc qdisc show dev eth0` lists" in registry.unreadable()["@eth0"]


def test_two_that_claim_a_name_at_once_do_not_both_get_it(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registry.owned("run", "netns") as owner:
        monkeypatch.setattr(registry, "find", lambda name: None)  # as the other one saw it a moment ago
        with pytest.raises(LinkError, match="being made by another process"), registry.owned("run", "netns"):
            raise AssertionError
        assert [path.name for path in records.iterdir()] == [owner.path.name]

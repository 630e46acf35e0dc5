"""Records of who has links here, and what becomes of those whose process is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.links import registry
from testbed.links.errors import LinkError
from testbed.links.registry import Owner


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "folder", lambda: tmp_path)
    return tmp_path


def test_a_record_is_of_a_process_that_lives() -> None:
    owner = registry.claim("run", "netns", ("splitcom-run-server",))
    assert registry.find("run") == owner
    assert owner.alive
    owner.forget()
    assert registry.owners() == []


def test_a_name_in_use_is_refused_with_its_process() -> None:
    registry.claim("run", "netns")
    with pytest.raises(LinkError, match=f"process {os.getpid()}"):
        registry.claim("run", "tun")


def test_a_process_that_was_killed_is_no_longer_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    Owner("run", "netns", process.pid, registry._started(process.pid)).write()
    found = registry.find("run")
    assert found is not None
    assert found.alive
    process.kill()
    process.wait()
    assert not found.alive


def test_another_process_of_the_same_number_is_not_the_owner() -> None:
    Owner("run", "netns", os.getpid(), registry._started(os.getpid()) - 1).write()
    found = registry.find("run")
    assert found is not None
    assert not found.alive


@pytest.mark.parametrize("text", ["{", "{}", '{"namespaces": [], "color": 3}'])
def test_a_record_that_is_none_is_named(records: Path, text: str) -> None:
    (records / "run.json").write_text(text)
    with pytest.raises(LinkError, match=r"run\.json"):
        registry.find("run")


def test_two_that_claim_a_name_at_once_do_not_both_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.claim("run", "netns")
    monkeypatch.setattr(registry, "find", lambda name: None)  # as the other one saw it a moment ago
    with pytest.raises(LinkError, match="being made by another process"):
        registry.claim("run", "netns")

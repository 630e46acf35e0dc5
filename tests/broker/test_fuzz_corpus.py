"""The fuzzing corpus: what it reaches, that its targets notice a broken decoder, and that the fuzzer runs them."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

from tests.fuzz.branches import MEASURED, NOT_COUNTED, ROOT, reach
from tests.fuzz.corpus import corpus
from tests.fuzz.targets import TARGETS, target

ENOUGH = 0.95
BROKEN = {
    "packet": ["tests.fuzz.packet.decode", "tests.fuzz.packet.Framer"],
    "wire": ["tests.fuzz.wire.parse", "tests.fuzz.wire.decode", "broker.messages.decode", "broker.lane.held_count"],
    "frame": ["splitcom.stream.parse", "splitcom.adapter_stream.unsealed", "splitcom.labels.unsealed"],
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_reaches_nearly_all_branches_that_read_what_comes_from_outside(name: str) -> None:
    inputs = corpus(name)
    found = reach(name, inputs)
    assert found.branches >= 70
    assert found.share >= ENOUGH, "\n".join(found.missed)
    assert reach(name, inputs[:2]).share < ENOUGH / 2


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_small(name: str) -> None:
    inputs = corpus(name)
    assert sum(map(len, inputs)) < 100_000
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize(("name", "broken"), [(name, broken) for name in TARGETS for broken in BROKEN[name]])
def test_a_decoder_that_raises_something_else_is_found(name: str, broken: str) -> None:
    with mock.patch(broken, side_effect=IndexError), pytest.raises(IndexError):
        list(map(target(name), corpus(name)))


def test_what_is_measured_and_what_is_not_counted_exists() -> None:
    for module in {*NOT_COUNTED, *(module for modules in MEASURED.values() for module in modules)}:
        assert (ROOT / module).is_file()
        names = [name.split(".")[-1] or name.split(".")[0] for name in NOT_COUNTED.get(module, ())]
        assert all(name in (ROOT / module).read_text() for name in names), f"{module}: {names}"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (extra `fuzz`)")
@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_runs_its_targets(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", name, "-runs=500"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Done 500 runs" in done.stderr
    assert list((tmp_path / "build" / "fuzz").glob(f"{name}-*")) == []


def test_another_target_is_refused_by_name() -> None:
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed (extra `fuzz`)")
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", "x"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "usage: python -m tests.fuzz TARGET [OPTION...]; valid targets: packet, wire, frame\n"

"""`splitcom generate`: the texts of a finished run's model, one per input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from testbed.__main__ import main
from tests.finished import finished_run
from tests.refusals import check_refused

MR = "name[Old hut], place[lake]"


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    directory = tmp_path_factory.mktemp("made") / "run"
    finished_run(tiny_base, directory, training={"epochs": 1}, evaluation={"bleu": 4, "max_new_tokens": 6})
    return directory


@pytest.fixture
def here(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with a copy of the run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "run")
    return tmp_path


def generate(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["generate", *arguments], input=stdin)


def test_the_texts_are_those_of_the_run_in_the_order_of_the_inputs(here: Path) -> None:
    expected = json.loads(Path("run", "outputs.json").read_text())[::-1]
    inputs = [part for text in expected for part in ("--mr", f" {text['mr']} ")]
    done = generate("run", *inputs, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == [{"mr": text["mr"], "output": text["output"]} for text in expected]
    assert len({text["output"] for text in expected}) > 1
    lines = generate("run", *inputs).stdout.splitlines()
    assert lines == [" ".join(text["output"].split()) for text in expected]


def test_inputs_come_from_standard_input_one_a_line(here: Path) -> None:
    other = "name[Café], place[ridge]"
    done = generate("run", "--mr", MR, "--mr", "-", "--json", stdin=f"\ufeff{other}\r\n\n {MR}\n".encode())
    assert [pair["mr"] for pair in json.loads(done.stdout)] == [MR, other, MR]
    assert done.stderr == ""


def test_a_text_is_as_long_as_is_asked_and_stays_in_its_line(here: Path) -> None:
    short, long = (generate("run", "--mr", MR, "--max-new-tokens", n).stdout for n in ("2", "40"))
    assert short.count("\n") == long.count("\n") == 1
    assert long.startswith(short.rstrip("\n"))
    assert len(long) > len(short)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "'--mr'"),
        (["--mr", "a"], "'RUN'"),
        (["nowhere", "--mr", "a"], "nowhere is no directory; valid: a run directory"),
        (["run", "--mr", " "], "--mr: empty; valid: an input as the data set spells it, or - for standard input"),
        (["run", "--mr", "-"], "--mr -: no line on standard input; valid: one input a line"),
        (["run", "--mr", "caf\udce9"], "--mr: not UTF-8; valid: text as the data set spells it"),
        (["run", "--mr", "a", "--max-new-tokens", "0"], "'--max-new-tokens'"),
        (["run", "--mr", "a", "--max-new-tokens", "256"], "an output of 256 leaves it 0 of 256; valid: a shorter one"),
        (["run", "--mr", "a" * 300], " tokens, an output of 6 leaves it 250 of 256; valid: "),
        (["run", "--mr", "a", "--model", "./no"], "model.base: ./no is no directory; valid: "),
        (["run", "--mr", "a", "--set", "x=1"], "x: unknown key; valid: "),
    ],
)
def test_a_mistake_gets_one_line(arguments: list[str], said: str, here: Path) -> None:
    check_refused(generate(*arguments), said)


def test_standard_input_that_is_no_text_is_refused(here: Path) -> None:
    check_refused(generate("run", "--mr", "-", stdin=b"\xff\xfe"), "--mr -: standard input is not UTF-8: ")

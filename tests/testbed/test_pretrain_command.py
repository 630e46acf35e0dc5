"""`splitcom pretrain`: an ordinary Hugging Face directory from text, whole or not at all."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from transformers import AutoModelForCausalLM, AutoTokenizer

from testbed.__main__ import main
from tests.bases import TEXTS
from tests.refusals import check_refused, enter

TINY = ["--blocks", "2", "--width", "16", "--heads", "2", "--positions", "32", "--vocab-size", "300", "--steps", "10"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with a text, and no settings around it."""
    enter(tmp_path, "SPLITCOM_PRETRAIN_", monkeypatch)
    (tmp_path / "huts.txt").write_text("\n".join(TEXTS))
    return tmp_path


def pretrain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["pretrain", *TINY, *arguments])


def test_texts_become_a_base_that_transformers_loads(here: Path) -> None:
    (here / "more.txt.gz").write_bytes(gzip.compress(b"Another hut || It is far away.\n"))
    result = pretrain("huts.txt", "more.txt.gz", "--out", "new/base")
    assert result.exit_code == 0, result.output
    assert result.stdout == "base: new/base\n"
    model, tokenizer = AutoModelForCausalLM.from_pretrained("new/base"), AutoTokenizer.from_pretrained("new/base")
    assert (model.config.n_layer, model.config.n_embd, model.config.n_positions) == (2, 16, 32)
    assert len(tokenizer) == model.config.vocab_size == 300
    assert tokenizer.decode(tokenizer.encode("Old hut || far")) == "Old hut || far"
    lines = result.stderr.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"pretrain: step 10/10, loss \d+\.\d+", lines[-1])
    assert "\r" not in result.stderr


def test_without_a_file_the_built_in_language_is_learned(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_PRETRAIN_STEPS", "7")
    monkeypatch.setenv("SPLITCOM_PRETRAIN_SEED", "3")
    flags = [flag for flag in TINY if flag not in ("--steps", "10")]
    result = CliRunner().invoke(main, ["pretrain", *flags, "--lines", "60", "--out", "base"])
    assert result.exit_code == 0, result.output
    assert "step 7/7" in result.stderr
    assert (here / "base" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.txt", "--out", "base"], "nowhere.txt: cannot be read: No such file or directory; valid: UTF-8 text"),
        (["huts.txt", "nowhere.txt", "--out", "base"], "nowhere.txt: cannot be read: "),
        (["bytes.txt", "--out", "base"], "bytes.txt: cannot be read: "),
        (["huts.txt"], "'--out'"),
        (["huts.txt", "--out", "huts.txt"], "--out: huts.txt exists; valid: a directory that does not exist yet"),
        (["huts.txt", "--out", "huts.txt/base"], "huts.txt: cannot be made: "),
        (["huts.txt", "--out", "base", "--heads", "3"], "heads: 3 does not divide the width 16"),
        (["huts.txt", "--out", "base", "--steps", "few"], "steps: 'few' is no int"),
        (["huts.txt", "--out", "base", "--blocks", "0"], "blocks: 0 is out of range; valid: 1 or more"),
        (["huts.txt", "--out", "base", "--block", "2"], "'--block'"),
        (["--out", "base", "--lines", "0"], "'--lines'"),
        (["short.txt", "--out", "base"], "tokens of text; valid: at least 32"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(arguments: list[str], said: str, here: Path) -> None:
    (here / "bytes.txt").write_bytes(b"\xff\xfe")
    (here / "short.txt").write_text("a hut")
    before = sorted(here.rglob("*"))
    check_refused(pretrain(*arguments), said)
    assert sorted(here.rglob("*")) == before


def test_an_existing_base_stays_as_it_is(here: Path) -> None:
    (here / "base").mkdir()
    (here / "base" / "mine").write_text("kept")
    check_refused(pretrain("huts.txt", "--out", "base"), "--out: base exists")
    assert [path.name for path in (here / "base").iterdir()] == ["mine"]


def test_a_variable_that_no_setting_has_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_PRETRAIN_DEPTH", "3")
    check_refused(pretrain("huts.txt", "--out", "base"), "environment variable SPLITCOM_PRETRAIN_DEPTH is unknown")

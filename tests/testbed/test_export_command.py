"""`splitcom export`: a run's adapter in a directory of its own, alone or as part of the whole model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitcom.config import ModelConfig
from splitcom.evaluate import SplitModel
from splitcom.partition import load_body, load_head, load_tail
from splitcom.weights import Weights
from testbed.__main__ import main
from tests.finished import finished_run
from tests.refusals import check_refused


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    directory = tmp_path_factory.mktemp("made") / "run"
    finished_run(tiny_base, directory, training={"epochs": 1}, evaluation={"bleu": 0})
    return directory


@pytest.fixture
def here(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with a copy of the run and a directory that is not empty."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "run")
    Path("full").mkdir()
    Path("full", "mine").write_text("kept")
    return tmp_path


def export(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments])


def files(directory: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def test_the_adapter_is_copied_as_it_is(here: Path) -> None:
    done = export("run/")
    assert (done.exit_code, done.output) == (0, "adapter: run-adapter\n")
    assert files("run-adapter") == files("run/adapter")
    Path("empty").mkdir()
    assert export("run", "--out", "empty").exit_code == 0
    assert export("run", "--out", "new/place").exit_code == 0
    assert files("empty") == files("new/place") == files("run/adapter")


def test_a_copied_adapter_names_the_base_that_is_given(here: Path, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, "base")
    assert export("run", "--model", "base").exit_code == 0
    assert json.loads(Path("run-adapter", "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    own = AutoModelForCausalLM.from_pretrained("run-adapter")  # transformers looks for the base that is named
    assert any("lora" in name for name, _ in own.named_parameters())


def test_the_merged_model_is_an_ordinary_one_that_says_what_base_and_adapter_say(here: Path, tiny_base: Path) -> None:
    done = export("run", "--merge")
    assert (done.exit_code, done.output) == (0, "model: run-merged\n")
    tokens = torch.randint(384, (3, 50), generator=torch.Generator().manual_seed(1))
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    with torch.no_grad():
        bare = base(tokens).logits
        expected = PeftModel.from_pretrained(base, "run/adapter").eval()(tokens).logits
        merged = AutoModelForCausalLM.from_pretrained("run-merged")(tokens).logits
    assert torch.allclose(merged, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(bare, expected, rtol=1e-2, atol=1e-2)
    text = "Old hut || far"
    assert AutoTokenizer.from_pretrained("run-merged").encode(text) == (
        AutoTokenizer.from_pretrained(tiny_base).encode(text)
    )
    weights, model = Weights("run-merged"), ModelConfig("run-merged", cut=1)  # and it can be a base itself
    split = SplitModel(load_head(weights, model), load_body(weights, model), load_tail(weights, model))
    with torch.no_grad():
        assert torch.allclose(split.logits(tokens), merged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merge", [[], ["--merge"]], ids=["adapter", "merged"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "'RUN'"),
        (["nowhere"], "nowhere is no directory; valid: a run directory that `splitcom run` left"),
        (["full"], "full has no config.toml; valid: a run directory"),
        (["run", "--out", "full"], "--out: full is not empty; valid: a new or an empty directory"),
        (["run", "--out", "run/config.toml"], "run/config.toml is no directory; valid: a new or an empty directory"),
        (["run", "--out", "run/config.toml/x"], "run/config.toml is no directory; valid: "),
        (["run", "--model", "./nowhere"], "model.base: ./nowhere is no directory; valid: "),
        (["run", "--bogus"], "'--bogus'"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    arguments: list[str], said: str, merge: list[str], here: Path
) -> None:
    before = sorted(here.rglob("*"))
    check_refused(export(*arguments, *merge), said)
    assert sorted(here.rglob("*")) == before


def test_an_unfinished_run_has_nothing_to_export(here: Path) -> None:
    shutil.rmtree("run/adapter")
    Path("run", "summary.json").unlink()
    check_refused(export("run"), "run has no adapter/adapter_config.json, its run's end: not told; valid: ")


def test_what_cannot_be_merged_leaves_nothing(here: Path) -> None:
    Path("run", "adapter", "adapter_model.safetensors").write_bytes(b"no archive")
    before = sorted(here.rglob("*"))
    check_refused(export("run", "--merge"), "adapter_model.safetensors: adapter: no safetensors archive: ")
    assert sorted(here.rglob("*")) == before

"""`splitcom evaluate`: the run's own figures again, every metric, and one line for every mistake."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitcom.config import DataConfig
from splitcom.data.batches import collate
from splitcom.data.corpus import load
from splitcom.data.sample import tokenize
from splitcom.metrics import METRICS, score
from testbed.__main__ import main
from tests.finished import finished_run
from tests.refusals import check_refused
from tests.runs import metrics

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 80
BLEU = 3


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change it work on a copy."""
    directory = tmp_path_factory.mktemp("made") / "run"
    finished_run(tiny_base, directory, evaluation={"bleu": BLEU, "max_new_tokens": 6})
    return directory


@pytest.fixture
def here(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with a copy of the run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "run")
    return tmp_path


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments])


def result_of(*arguments: str) -> dict[str, Any]:
    done = evaluate(*arguments, "--json")
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check_own_figures(run: Path) -> None:
    """Evaluate gives what the run itself measured at its end, bit by bit, and training had moved it."""
    before, *_, last = metrics(run, "evaluation")
    result = result_of(str(run), "--limit", str(BLEU), "--outputs", "texts.json", "--metrics", "bleu")
    assert result["perplexity"] == last["perplexity"] != before["perplexity"]
    assert result["metrics"]["bleu"] == json.loads((run / "summary.json").read_text())["bleu"]
    assert json.loads(Path("texts.json").read_text()) == json.loads((run / "outputs.json").read_text())


def test_the_runs_own_last_evaluation_is_met(here: Path) -> None:
    check_own_figures(here / "run")


@pytest.mark.parametrize(
    "model",
    [
        {"shape": "u", "cut": 1, "tail": 1},
        {"cut": 2, "cuts": ["agent0=1", "agent2=3"]},
    ],
    ids=["u", "cuts"],
)
def test_it_does_not_matter_how_the_run_was_cut(
    model: dict[str, Any], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layer = {"model": {"base": str(tiny_base), **model}, "training": {"epochs": 1}, "data": {"train": 9}}
    finished_run(tiny_base, tmp_path / "run", **layer, evaluation={"bleu": BLEU, "max_new_tokens": 6})
    check_own_figures(tmp_path / "run")


def test_perplexity_is_that_of_peft_and_transformers(here: Path, tiny_base: Path) -> None:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), "run/adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    samples = load(DataConfig(train=23, validation=8, test=4)).test
    total, tokens = 0.0, 0
    for example in tokenize(samples, tokenizer, 256)[0]:
        batch = collate([example])
        with torch.no_grad():
            logits = model(torch.from_numpy(batch.tokens)).logits[0, :-1]
        targets = torch.from_numpy(batch.labels)[0, 1:]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        tokens += int((targets != -100).sum())
    result = result_of("run", "--split", "test", "--metrics", "none")
    assert result["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)


def test_all_metrics_are_told_in_80_columns_and_as_json(here: Path) -> None:
    done = evaluate("run")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert [line.split()[0] for line in lines] == ["metric", "perplexity", *METRICS, "4"]
    result = result_of("run", "--outputs", "texts.json")
    texts = json.loads(Path("texts.json").read_text())
    assert result["texts"] == len(texts) == len({text["mr"] for text in texts}) == 4
    assert result["metrics"] == score([t["output"] for t in texts], [t["references"] for t in texts])


def test_metrics_are_chosen_by_name(here: Path) -> None:
    result = result_of("run", "--metrics", "ter, chrf", "--limit", "1")
    assert (list(result["metrics"]), result["texts"]) == (["ter", "chrf"], 1)
    done = evaluate("run", "--metrics", "none")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["metric", "perplexity"]
    assert "generating" not in done.stderr


def test_an_output_is_as_long_as_is_asked(here: Path) -> None:
    def texts(tokens: str) -> list[str]:
        result_of("run", "--limit", "1", "--max-new-tokens", tokens, "--outputs", "texts.json", "--metrics", "none")
        return [text["output"] for text in json.loads(Path("texts.json").read_text())]

    assert all(long.startswith(short) for short, long in zip(texts("2"), texts("5"), strict=True))
    assert texts("2") != texts("5")


def test_inputs_without_room_for_an_output_are_left_out_and_counted(here: Path) -> None:
    done = evaluate("run", "--max-new-tokens", "256")
    assert "evaluate: test: skipped 4: no room for an output behind the input\n" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("perplexity")


def test_a_run_that_moved_finds_base_and_data_where_it_is_told(here: Path, tiny_base: Path) -> None:
    expected = result_of("run", "--metrics", "none")
    config = Path("run", "config.toml")
    config.write_text(config.read_text().replace(str(tiny_base), "/far/away"))
    check_refused(evaluate("run"), "model.base: /far/away is no directory; valid: ")
    assert result_of("run", "--metrics", "none", "--model", str(tiny_base)) == expected
    Path("e2e").mkdir()
    for name in ("trainset", "devset", "testset_w_refs"):
        Path("e2e", f"{name}.csv").write_text(f"mr,ref\nname[{name}],A hut called {name}.\n")
    sizes = [f"--set=data.{name}=0" for name in ("train", "validation", "test")]
    other = ["run", "--model", str(tiny_base), "--data", "e2e", "--set", "data.set=e2e", *sizes]
    assert result_of(*other, "--outputs", "texts.json")["texts"] == 1
    [text] = json.loads(Path("texts.json").read_text())
    assert (text["mr"], text["references"]) == ("name[testset_w_refs]", ["A hut called testset_w_refs."])


def test_meteor_is_worked_out_by_its_own_program(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bin").mkdir()
    Path("bin", "java").write_text("#!/bin/sh\necho 'Final score: 0.25'\n")
    Path("bin", "java").chmod(0o755)
    Path("meteor-1.5.jar").touch()
    check_refused(evaluate("run", "--metrics", "meteor"), "--metrics: meteor needs --meteor-jar FILE")
    monkeypatch.setenv("PATH", f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}")
    jar = ["--meteor-jar", "meteor-1.5.jar", "--limit", "1"]
    assert list(result_of("run", *jar)["metrics"]) == [*METRICS, "meteor"]
    assert result_of("run", *jar, "--metrics", "meteor")["metrics"] == {"meteor": 25}
    Path("bin", "java").write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    done = evaluate("run", *jar, "--metrics", "meteor", "--outputs", "texts.json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "error: meteor: java ended with status 1: no memory"
    assert len(json.loads(Path("texts.json").read_text())) == 1


def test_without_sacrebleu_perplexity_is_left(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    done = evaluate("run", "--json")
    assert json.loads(done.stdout)["metrics"] == {}
    assert done.stderr.splitlines()[0] == (
        "evaluate: no text metric: all of them need the package sacrebleu; install splitcom[testbed]"
    )
    check_refused(evaluate("run", "--metrics", "nist"), "nist: needs the package sacrebleu; install splitcom[server]")


WRONG = [
    ([], "'RUN'"),
    (["run", "--bogus"], "'--bogus'"),
    (["nowhere"], "nowhere is no directory; valid: a run directory that `splitcom run` left"),
    (["empty"], "empty has no config.toml; valid: a run directory"),
    (["broken"], "broken/config.toml: not TOML: "),
    (["unknown"], "unknown/config.toml: cliens: unknown key; valid: name, "),
    (["early"], "early has no adapter/adapter_config.json, its run's end: interrupted; valid: "),
    (["half"], "half has no adapter/adapter_model.safetensors, its run's end: finished; valid: "),
    (
        ["run", "--metrics", "blue"],
        "--metrics: 'blue' is unknown; valid: bleu, chrf, ter, nist, rouge_l, cider, meteor",
    ),
    (["run", "--metrics", ""], "--metrics: '' is unknown; valid: "),
    (["run", "--meteor-jar", "meteor.jar"], "meteor: meteor.jar is no file; valid: the official meteor-1.5.jar"),
    (["run", "--split", "train"], "'train' is not one of 'validation', 'test'"),
    (["run", "--limit", "-1"], "'--limit'"),
    (["run", "--max-new-tokens", "0"], "'--max-new-tokens'"),
    (["run", "--outputs", "empty"], "--outputs: empty cannot be written; valid: a file in a directory that exists"),
    (["run", "--outputs", "no/texts.json"], "--outputs: no/texts.json cannot be written; valid: "),
    (["run", "--model", "empty"], "model.base: empty/config.json: No such file or directory; valid: "),
    (["run", "--data", "empty"], "data.path: the builtin set is generated; valid: no path"),
    (["run", "--set", "data.set=e2e"], "data.path: empty; valid: a directory with the files of e2e"),
    (["run", "--set", "model.cutt=1"], "model.cutt: unknown key; valid: "),
    (["run", "--set", "data.test=100000"], "data.test: 100000 samples, the set has "),
]


@pytest.fixture
def wrong(here: Path) -> Path:
    """The working directory with runs that are wrong in one way each."""
    for name in ("empty", "broken", "unknown", "early", "half"):
        Path(name).mkdir()
    for name in ("broken", "unknown", "early", "half"):
        shutil.copytree("run/adapter", f"{name}/adapter")
        shutil.copy("run/config.toml", name)
    Path("broken", "config.toml").write_text("clients =\n")
    Path("unknown", "config.toml").write_text("cliens = 3\n")
    shutil.rmtree("early/adapter")
    Path("early", "summary.json").write_text(json.dumps({"end": "interrupted"}))
    Path("half", "adapter", "adapter_model.safetensors").unlink()
    Path("half", "summary.json").write_text(json.dumps({"end": "finished"}))
    return here


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_a_mistake_gets_one_line_and_leaves_nothing(arguments: list[str], said: str, wrong: Path) -> None:
    before = sorted(wrong.rglob("*"))
    check_refused(evaluate(*arguments), said)
    assert sorted(wrong.rglob("*")) == before


def test_mistakes_are_told_before_torch_is_imported(wrong: Path) -> None:
    code = (
        "import json, sys\n"
        "from testbed.__main__ import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        main(['evaluate', *arguments])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 2, arguments\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, json.dumps([arguments for arguments, _ in WRONG])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == len(WRONG)


def test_an_adapter_that_does_not_fit_is_named(here: Path) -> None:
    check_refused(
        evaluate("run", "--set", "lora.rank=4"), "run/adapter/adapter_model.safetensors: adapter: transformer.h.0."
    )
    check_refused(evaluate("run", "--set", "lora.targets=c_attn"), "is not of this model")
    Path("run", "adapter", "adapter_model.safetensors").write_bytes(b"no archive")
    check_refused(evaluate("run"), "run/adapter/adapter_model.safetensors: adapter: no safetensors archive: ")


def test_a_base_without_a_tokenizer_is_named(here: Path, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, "bare")
    for path in Path("bare").glob("tokenizer*"):
        path.unlink()
    check_refused(
        evaluate("run", "--model", "bare"), "model.base: bare has no usable tokenizer; valid: a base with one"
    )

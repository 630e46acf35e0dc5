"""The command `splitcom`: bad input gets one line and leaves nothing, good input gets what was asked for."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner, Result

from broker.settings import as_table
from splitcom.config import STREAMS
from testbed.__main__ import SUBCOMMANDS, main
from testbed.commands.run import report
from testbed.progress import Progress
from tests.refusals import check_refused
from tests.runs import metrics, tiny_scenario

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 80


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> Path:
    """The working directory: a scenario and things that are wrong in one way each, and no settings around it."""
    for name in list(os.environ):
        if name.startswith("SPLITCOM_") and name != "SPLITCOM_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tomli_w.dumps(as_table(tiny_scenario(tiny_base))))
    Path("table.toml").write_text("cliens = 3\n")
    Path("broken.toml").write_text("clients =\n")
    Path("base").symlink_to(tiny_base)
    Path("full").mkdir()
    Path("full", "mine").touch()
    Path("empty").mkdir()
    for name, config in (("notjson", "{"), ("nodict", "[]"), ("noweights", json.dumps({"n_layer": 4}))):
        Path(name).mkdir()
        Path(name, "config.json").write_text(config)
    Path("csv").mkdir()
    Path("csv", "trainset.csv").write_text("mr,ref\nname[x],A text.\nname[y]\n")
    Path("json").mkdir()
    triples = [{"tripleset": [["a", "b", "c"]], "annotations": [{"source": "s", "text": "t"}]}, {"tripleset": 3}]
    Path("json", "dart-v1.1.1-full-train.json").write_text(json.dumps(triples))
    Path("xml").mkdir()
    Path("xml", "train.xml").write_text("<benchmark>\n")
    return tmp_path


def splitcom(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="splitcom")


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


WRONG = [
    (["--bogus"], "'--bogus'"),
    (["rum"], "unknown command 'rum'; valid: run, demo, scenarios, broker, server, agent, pretrain, bench"),
    (["run"], "'SCENARIO...'"),
    (["run", "tiny.toml", "--epoch", "1"], "'--epoch'. Did you mean '--epochs'?"),
    (["run", "splitcon"], "scenario 'splitcon' is unknown; valid: all-gates, bang-bang, dart"),
    (["run", "./nowhere.toml"], "nowhere.toml: No such file or directory"),
    (["run", "full/"], "full: Is a directory"),
    (["run", "table.toml"], "cliens: unknown key; valid: name, transport"),
    (["run", "broken.toml"], "broken.toml: not TOML: "),
    (["run", "tiny.toml", "--set", "epochs"], "'epochs' is no setting; valid: key=value"),
    (["run", "tiny.toml", "--set", "streams.up.codec=fp16"], "streams.up: unknown key; valid: streams.activation_up"),
    (["run", "tiny.toml", "--set", "streams.activation_up.codec=int9"], "codec: 'int9' is unknown; valid: fp32, "),
    (["run", "tiny.toml", "--set", "model.cut=0"], "model.cut: 0 is out of range; valid: 1 or more"),
    (["run", "tiny.toml", "--epochs", "many"], "training.epochs: 'many' is no int"),
    (["run", "tiny.toml", "--transport", "tcp"], "transport: 'tcp' is unknown; valid: mqtt, memory"),
    (["run", "tiny.toml", "--transport", "memory", "--broker", "mosquitto"], "valid with memory: embedded"),
    (["run", "tiny.toml", "--broker", "rabbit"], "broker: 'rabbit' is unknown; valid: embedded, mosquitto, mqtt://"),
    (["run", "tiny.toml", "--broker", "mqtt://"], "broker: 'mqtt://' is no broker; valid: mqtt://host:port"),
    (["scenarios", "splitcon"], "scenario 'splitcon' is unknown; valid: "),
    (["scenarios", "demo", "e2e"], "(e2e)"),
    (["demo", "--set", "x=1"], "x: unknown key"),
    (["demo", "--broker", "rabbit"], "broker: 'rabbit' is unknown"),
    (["demo", "--bogus"], "'--bogus'"),
    (["bench", "steps"], "'steps'"),
    (["bench", "step"], "'--model'"),
    (["broker", "--port", "70000"], "port: 70000 is out of range"),
]

WRONG_IN_A_RUN = [
    (["tiny.toml", "--model", ""], "model.base: empty; valid: a directory in Hugging Face layout or a hub name"),
    (["tiny.toml", "--model", "./nowhere"], "model.base: ./nowhere is no directory; valid: "),
    (["tiny.toml", "--model", "empty"], "model.base: empty/config.json: No such file or directory; valid: "),
    (["tiny.toml", "--model", "notjson"], "model.base: notjson/config.json: not JSON: "),
    (["tiny.toml", "--model", "nodict"], "model.base: nodict/config.json: no table in it"),
    (["tiny.toml", "--model", "noweights"], "model.base: noweights has no safetensors weights; valid: "),
    (
        ["tiny.toml", "--set", "model.cut=4"],
        "model.cut: 4 leaves no body in a model of 4 blocks with a tail of 0; valid",
    ),
    (["tiny.toml", "--set", "model.tail=3"], "model.tail: 3 leaves no body in a model of 4 blocks; valid: 0 to 2"),
    (["tiny.toml", "--set", "model.shape=u"], "model.tail: 0 leaves no tail in the U-shape; valid: 1 or more"),
    (["tiny.toml", "--set", "model.cuts=agent0=4"], "model.cuts: agent0: 4 leaves no body in a model of 4 blocks with"),
    (["tiny.toml", "--set", "model.cuts=agent9=1"], "model.cuts: 'agent9' is no agent of the run; valid: agent0 to"),
    (["tiny.toml", "--set", "model.cuts=1"], "model.cuts: '1'; valid: CLIENT=CUT, each client once"),
    (["tiny.toml", "--set", "streams.gradient_up.enabled=no"], "streams.gradient_up.enabled: false; valid: true"),
    (["tiny.toml", "--set", "streams.activation_up.loose=1"], "streams.activation_up.loose: 1 is above tight; valid:"),
    (
        ["tiny.toml", "--set", "control.kind=pid"],
        "control.kind: 'pid' is unknown; valid: fixed, bang-bang, ddpg, random",
    ),
    (
        ["tiny.toml", "--set", "control.policy=p"],
        "control.policy: of no use with kind fixed; valid: no policy, or kind",
    ),
    (["tiny.toml", "--set", "control.noise=inf"], "control.noise: inf is out of range; valid: 0 or more"),
    (["tiny.toml", "--set", "lora.rank=99999"], "lora.rank: 99999 is out of range; valid: 1 or more, at most 4096"),
    (
        ["tiny.toml", "--seed", "4294967296"],
        "training.seed: 4294967296 is out of range; valid: 0 or more, at most 4294",
    ),
    (["tiny.toml", "splitlora", "ddpg"], "control.kind: ddpg has no threshold to set; valid: fixed, or a stream whose"),
    (
        ["tiny.toml", "bang-bang", "--set", "streams.activation_up.threshold=1"],
        "streams.activation_up.threshold: 1 is out of the controller's range; valid: loose to tight, 0.95 to 0.995",
    ),
    (
        ["tiny.toml", "--set", "model.cuts=agent0=1", "--set", "training.step_policy=arrival"],
        "model.cuts: clients that cut elsewhere step together; valid: none, or policy barrier",
    ),
    (["tiny.toml", "ddpg", "--set", "control.policy=broken.toml"], "control.policy: broken.toml: no safetensors file"),
    (["tiny.toml", "--set", "adapters.every=0"], "adapters.every: 0 is out of range; valid: 1 or more"),
    (["tiny.toml", "--clients", "24"], "data.train: 23 samples for 24 shards; valid: at least one each"),
    (["tiny.toml", "--data", "csv"], "data.path: the builtin set is generated"),
    (["tiny.toml", "--set", "data.validation=100000"], "data.validation: 100000 samples, the set has "),
    (["e2e"], "model.base: empty; valid: "),
    (["e2e", "--model", "base"], "data.path: empty; valid: a directory with the files of e2e"),
    (
        ["e2e", "--model", "base", "--data", "nowhere"],
        "data.path: nowhere is not a directory; valid: one with trainset.csv",
    ),
    (["e2e", "--model", "base", "--data", "empty"], "data.path: no e2e file in empty or empty/e2e; valid: "),
    (["e2e", "--model", "base", "--data", "csv"], "csv/trainset.csv: row 3: 1 fields; valid: 2"),
    (
        ["dart", "--model", "base", "--data", "json"],
        "dart-v1.1.1-full-train.json: entry 2: tripleset is missing or empty",
    ),
    (["webnlg", "--model", "base", "--data", "xml"], "xml/train.xml: not usable XML: "),
    (["tiny.toml", "--out", "full"], "--out: full is not empty; valid: a new or an empty directory"),
    (["tiny.toml", "--out", "tiny.toml"], "tiny.toml is no directory; valid: a new or an empty directory"),
    (["tiny.toml", "--out", "tiny.toml/run"], "tiny.toml is no directory; valid: a new or an empty directory"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_a_mistake_gets_one_line_and_status_2_and_leaves_nothing(arguments: list[str], said: str, here: Path) -> None:
    before = tree(here)
    check_refused(splitcom(*arguments), said)
    assert tree(here) == before


@pytest.mark.parametrize("transport", ["mqtt", "memory"])
@pytest.mark.parametrize(("arguments", "said"), WRONG_IN_A_RUN)
def test_what_a_run_cannot_use_is_told_before_anything_is_written(
    arguments: list[str], said: str, transport: str, here: Path
) -> None:
    before = tree(here)
    check_refused(splitcom("run", *arguments, "--transport", transport), said)
    assert tree(here) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "lora.targets=c_atn"], "lora.targets: c_atn"),
        (["--model", "no-such-base"], "model.base: no-such-base is no directory, and as a hub name it cannot be read"),
        (["--model", "noweights"], "noweights"),
    ],
)
def test_what_only_the_model_can_tell_leaves_nothing_either(arguments: list[str], said: str, here: Path) -> None:
    (here / "noweights" / "model.safetensors").write_bytes(b"no safetensors")
    before = tree(here)
    check_refused(splitcom("run", "tiny.toml", "--transport", "memory", "--out", "run", *arguments), said)
    assert tree(here) == before


def test_a_variable_that_no_setting_has_is_named_with_the_nearest(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_RUN_TRAINING_EPOCH", "3")
    said = "environment variable SPLITCOM_RUN_TRAINING_EPOCH is unknown; nearest: SPLITCOM_RUN_TRAINING_EPOCHS"
    check_refused(splitcom("run", "tiny.toml"), said)


def test_a_broker_that_cannot_be_reached_is_named_with_the_reason(here: Path) -> None:
    before = tree(here)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        result = splitcom("run", "tiny.toml", "--broker", f"mqtt://127.0.0.1:{port}")
    check_refused(result, f"127.0.0.1:{port}: Connection refused")
    assert tree(here / "runs") == []
    (here / "runs").rmdir()
    assert tree(here) == before


def test_mosquitto_that_is_not_installed_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.engines.find_mosquitto", lambda: None)
    check_refused(splitcom("run", "tiny.toml", "--broker", "mosquitto"), "no program mosquitto on PATH")


def test_bleu_without_its_package_is_refused_before_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    before = tree(here)
    check_refused(splitcom("run", "tiny.toml"), "evaluation.bleu: needs the package sacrebleu; valid: 0, or ")
    assert tree(here) == before


def test_mistakes_are_told_before_torch_is_imported(here: Path) -> None:
    lines = [["run", *arguments] for arguments, _ in WRONG_IN_A_RUN] + [arguments for arguments, _ in WRONG]
    lines += [["agent", "--broker", "x"], ["server", "--broker", "x"], ["agent", "--config", "broken.toml"]]
    code = (
        "import json, sys\n"
        "from testbed.__main__ import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 2, arguments\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == len(lines)


GROUPS = {
    "bench": ("step", "memory", "size"),
    "policy": ("train", "show"),
    "study": ("run", "status", "report", "choose"),
}
COMMANDS = [[], *([name] for name in SUBCOMMANDS), *([group, name] for group in GROUPS for name in GROUPS[group])]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns(command: list[str]) -> None:
    result = splitcom(*command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= COLUMNS


def test_the_scenarios_are_listed_in_80_columns_and_shown_by_name() -> None:
    listed = splitcom("scenarios").stdout
    assert max(map(len, listed.splitlines())) <= COLUMNS
    for name in ("demo", "splitcom", "splitlora", "frozen-head", "e2e"):
        assert re.search(rf"^{name} ", listed, re.MULTILINE)
    assert 'codec = "int8"' in splitcom("scenarios", "splitcom").stdout


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"splitcom, version \d+\.\d+\.\d+\n", splitcom("--version").stdout)


def test_json_is_the_summary_and_progress_is_a_line_per_epoch(here: Path) -> None:
    result = splitcom("run", "tiny.toml", "--transport", "memory", "--out", "run", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary == json.loads(Path("run", "summary.json").read_text())
    assert (summary["end"], summary["transport"], summary["run_dir"]) == ("finished", "memory", "run")
    lines = result.stderr.splitlines()
    assert all(line.startswith("tiny: ") for line in lines)
    assert [line.partition(" done")[0] for line in lines if "epoch" in line] == ["tiny: epoch 1", "tiny: epoch 2"]
    assert not set(map(chr, range(32))) - {"\n"} & set(result.stderr)


def test_a_run_is_repeated_from_its_own_configuration(here: Path) -> None:
    first = splitcom("run", "tiny.toml", "--transport", "memory", "--out", "a", "--epochs", "1", "--seed", "5")
    again = splitcom("run", "a/config.toml", "--out", "b")
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert max(map(len, first.stdout.splitlines())) <= COLUMNS
    assert first.stdout.splitlines()[-1] == "run directory: a"
    assert Path("a", "config.toml").read_bytes() == Path("b", "config.toml").read_bytes()
    losses = [[row["loss"] for row in metrics(Path(run), "step")] for run in "ab"]
    assert losses[0] == losses[1]
    refused = splitcom("run", "tiny.toml", "--transport", "memory", "--out", "a")
    check_refused(refused, "--out: a is not empty")


def test_the_environment_stands_between_scenario_and_flags(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_RUN_TRAINING_EPOCHS", "1")
    monkeypatch.setenv("SPLITCOM_RUN_TRAINING_SEED", "8")
    monkeypatch.setenv("SPLITCOM_RUN_EVALUATION_BLEU", "0")
    result = splitcom("run", "tiny.toml", "--transport", "memory", "--out", "run", "--seed", "9", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bleu"] is None
    config = Path("run", "config.toml").read_text()
    assert "epochs = 1\n" in config
    assert "seed = 9\n" in config


def test_a_figure_that_is_no_number_is_a_dash_in_the_report() -> None:
    summary = {"uplink_bytes": 1.0, "downlink_bytes": 1.0, "total_bytes": 2.0, "saved_percent": 0.0, "skip_ratios": {}}
    summary |= {"steps": 1, "steps_per_s": 1.0, "wall_s": 1.0, "bleu": None, "run_dir": "r"}
    text = report(summary | {"perplexity_before": 9.5, "perplexity": None})
    assert "validation perplexity 9.50 -> -\n" in text
    assert "skipped nothing\n" in text


def test_the_report_of_a_large_run_fits_80_columns() -> None:
    summary = {"uplink_bytes": 123.4e9, "downlink_bytes": 123.4e9, "total_bytes": 246.8e9, "saved_percent": -12.3}
    summary |= {
        "skip_ratios": dict.fromkeys(STREAMS, 0.999),
        "steps": 123456,
        "steps_per_s": 123.45,
        "wall_s": 123456.0,
    }
    text = report(summary | {"perplexity_before": 123456.78, "perplexity": 123.45, "bleu": 12.3, "run_dir": "r"})
    assert max(map(len, text.splitlines())) <= COLUMNS


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminals_line_keeps_all_its_figures_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((COLUMNS, 24)))
    stream = Terminal()
    progress = Progress("frozen-head", stream)
    progress.perplexity = 459.91
    step = {"event": "step", "epoch": 11, "step": 1000, "total_steps": 1200}
    progress("agent0", {"event": "step", "skip_ratio": 1.0})
    progress("server", step | {"uplink_bytes": 12.3e6, "downlink_bytes": 12.3e6})
    line = stream.getvalue().removeprefix("\r\x1b[K")
    assert len(line) < COLUMNS
    for figure in ("epoch 12", "step 1000/1200", "up 12.3 MB", "down 12.3 MB", "skipped 100 %", "perplexity 459.91"):
        assert figure in line

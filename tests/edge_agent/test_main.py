"""The program of an agent: what it refuses, in one line and before it costs seconds, and what it tells a parent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_agent.__main__ import main
from tests.refusals import check_refused, enter

ROOT = Path(__file__).resolve().parents[2]

WRONG = [
    (["--bogus"], "'--bogus'"),
    (["dev0"], "(dev0)"),
    (["--config", "nowhere.toml"], "nowhere.toml: No such file or directory"),
    (["--config", "broken.toml"], "broken.toml: not TOML: "),
    (["--config", "unknown.toml"], "cut: unknown key; valid: run, name, broker"),
    (["--set", "model.device=tpu"], "model.device: 'tpu' is unknown; valid: auto, cpu, cuda"),
    (["--set", "model.cut=2"], "model.cut: unknown key; valid: model.base"),
    (["--shard", "3"], "--shard: '3'; valid: I/N, for example 0/3"),
    (["--shard", "a/b"], "'a' is no int"),
    (["--shard", "3/3"], "shard: 3 is out of range; valid: 0 or more, at most 2"),
    (["--broker", "localhost"], "broker: 'localhost' is no broker; valid: mqtt://host:port"),
    (["--broker", "mqtt://h:port"], "broker: 'mqtt://h:port' is no broker"),
    (["--name", "a/b"], "client 'a/b' is no name; valid: "),
    (["--run", "my run"], "run 'my run' is no name; valid: "),
    (["--name", "server"], "name: 'server' is the server's own; valid: any other name"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with configurations that are wrong, and no settings around it."""
    enter(tmp_path, "SPLITCOM_AGENT_", monkeypatch)
    (tmp_path / "broken.toml").write_text("[model\n")
    (tmp_path / "unknown.toml").write_text("cut = 2\n")
    return tmp_path


def agent(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_a_mistake_gets_one_line_and_status_2(arguments: list[str], said: str, here: Path) -> None:
    check_refused(agent(*arguments), said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "model.base: empty; valid: a directory in Hugging Face layout or a hub name"),
        (["--model", "./nowhere"], "model.base: ./nowhere is no directory"),
        (["--model", "BASE", "--data", "nowhere"], "data.path: the builtin set is generated"),
        (["--model", "BASE", "--data", "nowhere", "--set", "data.set=e2e"], "data.path: nowhere is not a directory"),
        (["--model", "BASE", "--shard", "0/5", "--set", "data.train=4"], "data.train: 4 samples for 5 shards"),
    ],
)
def test_what_takes_the_model_or_the_texts_to_tell_is_one_line_too(
    arguments: list[str], said: str, here: Path, tiny_base: Path
) -> None:
    before = sorted(here.iterdir())
    given = [str(tiny_base) if argument == "BASE" else argument for argument in arguments]
    check_refused(agent("--out", "run", *given), said)
    assert sorted(here.iterdir()) == before


def test_a_broker_that_cannot_be_reached_is_named_and_no_ledger_is_left(here: Path, tiny_base: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        broker = f"127.0.0.1:{silent.getsockname()[1]}"
        result = agent("--model", str(tiny_base), "--broker", f"mqtt://{broker}", "--out", "run")
    check_refused(result, f"cannot reach broker {broker}: Connection refused")
    assert not (here / "run").exists()


def test_a_variable_that_no_setting_has_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_AGENT_SHARDZ", "3")
    check_refused(agent(), "environment variable SPLITCOM_AGENT_SHARDZ is unknown; nearest: SPLITCOM_AGENT_SHARD,")


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "agent.toml").write_text('name = "file"\nbroker = "file"\n')
    monkeypatch.setenv("SPLITCOM_AGENT_NAME", "environment")
    monkeypatch.setenv("SPLITCOM_AGENT_BROKER", "environment")
    check_refused(agent("--config", "agent.toml"), "broker: 'environment' is no broker")
    check_refused(agent("--config", "agent.toml", "--broker", "flag"), "broker: 'flag' is no broker")


def test_help_and_mistakes_need_neither_torch_nor_extras_nor_the_server(here: Path) -> None:
    code = (
        "import sys\n"
        "from testbed.__main__ import main\n"
        "for arguments in (['agent', '--help'], ['agent', '--broker', 'x']):\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'sacrebleu', 'training_server'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.stdout.startswith("Usage: ")
    assert done.stderr == "error: broker: 'x' is no broker; valid: mqtt://host:port, mqtts://host:port\n\n"


def test_it_is_a_module_to_run(here: Path) -> None:
    command = [sys.executable, "-m", "edge_agent", "--config", str(here / "broken.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {here / 'broken.toml'}: not TOML: ")
    assert done.stderr.count("\n") == 1

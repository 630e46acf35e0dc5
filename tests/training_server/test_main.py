"""The program of the training server: what it refuses, in one line, leaving no run directory behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.server import Broker, BrokerConfig
from broker.settings import build, load_toml
from testbed.scenario import Scenario
from tests.refusals import check_refused, enter
from training_server.__main__ import main

ROOT = Path(__file__).resolve().parents[2]

WRONG = [
    (["--bogus"], "'--bogus'"),
    (["lab"], "(lab)"),
    (["--config", "nowhere.toml"], "nowhere.toml: No such file or directory"),
    (["--config", "broken.toml"], "broken.toml: not TOML: "),
    (["--config", "unknown.toml"], "cliens: unknown key; valid: run, broker, out, clients"),
    (["--clients", "none"], "clients: 'none' is no int"),
    (["--clients", "0"], "clients: 0 is out of range; valid: 1 or more, at most 10000"),
    (["--set", "streams.gradient_down.codec=int9"], "streams.gradient_down.codec: 'int9' is unknown; valid: fp32"),
    (["--set", "training.step_policy=later"], "training.step_policy: 'later' is unknown; valid: barrier, arrival"),
    (["--set", "model.cut=0"], "model.cut: 0 is out of range; valid: 1 or more"),
    (["--broker", "localhost"], "broker: 'localhost' is no broker; valid: mqtt://host:port"),
    (["--run", "my run"], "run 'my run' is no name; valid: "),
    (["--out", "used"], "out: used holds a run already; valid: a directory without metrics.jsonl"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with things that are wrong, and no settings around it."""
    enter(tmp_path, "SPLITCOM_SERVER_", monkeypatch)
    (tmp_path / "broken.toml").write_text("[model\n")
    (tmp_path / "unknown.toml").write_text("cliens = 2\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "metrics.jsonl").touch()
    return tmp_path


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The URL of a broker that runs beside the tests."""
    told: list[str] = []
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with Broker(BrokerConfig(port=0)) as running:
            host, port = running.address
            told.append(f"mqtt://{host}:{port}")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield told[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def server(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_a_mistake_gets_one_line_and_status_2(arguments: list[str], said: str, here: Path) -> None:
    before = sorted(here.rglob("*"))
    check_refused(server(*arguments), said)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", ""], "model.base: empty; valid: a directory in Hugging Face layout or a hub name"),
        (["--model", "./nowhere"], "model.base: ./nowhere is no directory"),
        (
            ["--set", "model.cut=4"],
            "model.cut: 4 leaves no body in a model of 4 blocks with a tail of 0; valid: 1 to 3",
        ),
        (["--set", "lora.targets=c_atn"], "lora.targets: c_atn"),
        (["--set", "data.set=e2e", "--data", "nowhere"], "data.path: nowhere is not a directory"),
        (["--out", "broken.toml"], "broken.toml: File exists"),
        (["--out", "broken.toml/run"], "broken.toml/run: Not a directory"),
    ],
)
def test_what_only_the_model_and_the_texts_can_tell_leaves_no_directory(
    arguments: list[str], said: str, here: Path, tiny_base: Path, broker: str
) -> None:
    before = sorted(here.rglob("*"))
    check_refused(server("--model", str(tiny_base), "--broker", broker, "--out", "run", *arguments), said)
    assert sorted(here.rglob("*")) == before


def test_outputs_that_leave_no_room_for_an_input_are_refused(here: Path, tiny_base: Path, broker: str) -> None:
    sizes = ("--set", "evaluation.max_new_tokens=256", "--set", "data.test=4", "--set", "data.validation=4")
    result = server("--model", str(tiny_base), "--broker", broker, "--out", "run", *sizes)
    check_refused(result, "evaluation.max_new_tokens: 256 leaves no room for an input in 256 positions; valid: at most")


def test_a_broker_that_cannot_be_reached_is_named_and_no_directory_is_left(here: Path, tiny_base: Path) -> None:
    before = sorted(here.rglob("*"))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = server("--model", str(tiny_base), "--broker", f"mqtt://{address}", "--out", "run")
    check_refused(result, f"cannot reach broker {address}: Connection refused")
    assert sorted(here.rglob("*")) == before


def test_agents_that_never_come_end_the_run_with_status_1(here: Path, tiny_base: Path, broker: str) -> None:
    result = server("--model", str(tiny_base), "--broker", broker, "--set", "training.round_deadline_s=0.1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: 0 of 3 clients said hello within 0.1 s: none"


def test_the_run_directory_says_what_the_run_was(here: Path, tiny_base: Path, broker: str) -> None:
    cuts = ("--set", "model.cuts=dev0=1")
    server(
        "--model", str(tiny_base), "--broker", broker, "--set", "training.round_deadline_s=0.1", "--run", "lab", *cuts
    )
    scenario = build(Scenario, load_toml(here / "runs" / "run" / "config.toml"))
    assert (scenario.name, scenario.clients, scenario.training.round_deadline_s) == ("lab", 3, 0.1)
    assert scenario.model.base == str(tiny_base)


def test_a_variable_that_no_setting_has_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITCOM_SERVER_CLIENT", "3")
    check_refused(server(), "environment variable SPLITCOM_SERVER_CLIENT is unknown; nearest: SPLITCOM_SERVER_CLIENTS")


def test_bleu_without_its_package_is_refused_at_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_refused(server(), "evaluation.bleu: needs the package sacrebleu; valid: 0, or ")


def test_mistakes_are_told_before_torch_is_imported(here: Path) -> None:
    code = (
        "import sys\n"
        "from training_server.__main__ import main\n"
        "for arguments in (['--help'], ['--broker', 'x'], ['--out', 'used']):\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 2


def test_it_is_a_module_to_run(here: Path) -> None:
    command = [sys.executable, "-m", "training_server", "--config", str(here / "broken.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {here / 'broken.toml'}: not TOML: ")
    assert done.stderr.count("\n") == 1

"""Real runs as processes: what they count and leave behind, and that none outlives its run however that ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from broker.engines import engine, find_mosquitto
from broker.settings import as_table, build
from testbed.scenario import Scenario
from tests.runs import metrics, run_tiny, tiny_scenario

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240  # imports of several processes on a busy machine
ENDS_S = 5.0  # the longest that anything may outlive Ctrl-C

pytestmark = pytest.mark.slow
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="no program mosquitto on PATH or in /usr/sbin")


def scenario(base: Path, **layer: Any) -> Scenario:
    return tiny_scenario(base, clients=2, streams={"activation_up": {"threshold": 0.9}}, **layer)


def arguments(made: Scenario, directory: Path, *more: str) -> list[str]:
    """The command line that runs a scenario into `directory / "run"`."""
    file = directory / "scenario.toml"
    file.write_text(tomli_w.dumps(as_table(made)))
    return [sys.executable, "-m", "testbed", "run", str(file), "--out", str(directory / "run"), *more]


def surroundings() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPLITCOM_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own, killed when it takes longer than PATIENCE_S."""
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=surroundings(), start_new_session=True, **options
    ) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            process.kill()
            watchdog.cancel()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What the process says on standard error up to a line with `text`, which has to come."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} never came: {lines}")


def children(pid: int) -> dict[int, str]:
    """The command lines of all processes below `pid`, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if parent == pid:
            found |= {int(entry.name): command} | children(int(entry.name))
    return found


@contextmanager
def outlived(pids: list[int]) -> Iterator[None]:
    """Everything of `pids` has to be gone within ENDS_S of the end of the block."""
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        deadline = time.monotonic() + ENDS_S
        for handle in handles:
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "a process is still running"
    finally:
        for handle in handles:
            os.close(handle)


def check_readable(directory: Path) -> None:
    """Every file that a run leaves can be read, and every line of a record is whole."""
    build(Scenario, tomllib.loads((directory / "config.toml").read_text()))
    assert json.loads((directory / "versions.json").read_text())["splitcom"]
    records = [directory / "metrics.jsonl", *directory.glob("ledger-*.jsonl")]
    assert len(records) == 4
    for path in records:
        for line in path.read_text().splitlines():
            assert "row" in json.loads(line)


def check_counts(summary: dict[str, Any], directory: Path, embedded: bool) -> None:
    """The three levels of bytes agree with each other, and with the broker's own count where there is one."""
    for way in ("up", "down"):
        counts = summary[way]
        assert sum(counts["kinds"].values()) == counts["body_bytes"]
        assert counts["repeated_bytes"] == 0
        assert counts["wire_bytes"] == counts["body_bytes"] + counts["envelope_bytes"] <= counts["tcp_bytes"]
        assert counts["tcp_bytes"] == counts["tcp_bytes_at_broker"]
        # What MQTT adds: topics and headers of every chunk, acknowledgements, logging in.
        assert counts["tcp_bytes"] <= counts["wire_bytes"] + 200 * counts["chunks"] + 2000
        if embedded:
            assert counts["tcp_bytes"] <= counts["broker_bytes"] <= counts["tcp_bytes"] + 500
        else:
            assert counts["broker_bytes"] is None
    assert summary["total_bytes"] == summary["up"]["wire_bytes"] + summary["down"]["wire_bytes"]
    check_readable(directory)


@pytest.fixture(scope="module")
def reference(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The same run over memory in this process, with one thread."""
    directory = tmp_path_factory.mktemp("reference") / "run"
    return run_tiny(scenario(tiny_base), directory), directory


@pytest.mark.parametrize("kind", ["embedded", pytest.param("mosquitto", marks=needs_mosquitto), "external"])
def test_a_run_of_processes_counts_every_byte_and_equals_the_run_over_memory(
    kind: str, tiny_base: Path, tmp_path: Path, reference: tuple[dict[str, Any], Path]
) -> None:
    def carry_out(spec: str) -> tuple[str, str]:
        command = arguments(scenario(tiny_base), tmp_path, "--broker", spec, "--json")
        with started(command, stdout=subprocess.PIPE) as process:
            said = process.communicate()
        assert process.returncode == 0, said[1]
        return said

    async def beside_a_broker() -> tuple[str, str]:
        async with engine("embedded", tmp_path) as address:
            return await asyncio.to_thread(carry_out, f"mqtt://{address.host}:{address.port}")

    output, errors = asyncio.run(beside_a_broker()) if kind == "external" else carry_out(kind)
    summary, directory = json.loads(output), tmp_path / "run"
    assert summary == json.loads((directory / "summary.json").read_text())
    assert (summary["end"], summary["transport"]) == ("finished", "mqtt")
    assert re.findall(r"epoch (\d+) done", errors) == ["1", "2"]
    assert not set(map(chr, range(32))) - {"\n"} & set(errors)
    check_counts(summary, directory, kind == "embedded")

    expected, memory = reference
    for way in ("up", "down"):
        for key in ("kinds", "body_bytes", "envelope_bytes", "chunks", "messages"):
            assert summary[way][key] == expected[way][key], (way, key)
    for key in ("perplexity_before", "perplexity", "bleu", "steps", "skip_ratio", "bits_per_value"):
        assert summary[key] == expected[key], key
    assert summary["agent_memory_bytes"] == expected["agent_memory_bytes"]
    assert summary["skip_ratio"] > 0
    losses = [[row["loss"] for row in metrics(where, "step")] for where in (directory, memory)]
    assert losses[0] == losses[1]
    adapters = [(where / "adapter" / "adapter_model.safetensors").read_bytes() for where in (directory, memory)]
    assert adapters[0] == adapters[1]
    assert json.loads((directory / "outputs.json").read_text())


@pytest.mark.parametrize(("transport", "whom"), [("mqtt", "runner"), ("mqtt", "group"), ("memory", "runner")])
def test_ctrl_c_ends_every_process_at_once_and_leaves_a_readable_directory(
    transport: str, whom: str, tiny_base: Path, tmp_path: Path
) -> None:
    endless = scenario(tiny_base, training={"epochs": 10_000, "batch_size": 4})
    with started(arguments(endless, tmp_path, "--transport", transport)) as process:
        lines_until(process, "epoch 2 done")
        below = children(process.pid)
        # Broker, server and two agents, each a process of its own, or everything in one.
        assert len(below) == (4 if transport == "mqtt" else 0), below
        with outlived([process.pid, *below]):
            (os.killpg if whom == "group" else os.kill)(process.pid, signal.SIGINT)
        said, status = process.stderr.read() if process.stderr else "", process.wait()
    assert status == 130, said
    assert "Traceback" not in said
    check_readable(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["end"] == "interrupted"
    assert len(metrics(tmp_path / "run", "evaluation")) >= 3
    if transport == "mqtt":
        assert f"interrupted; run directory: {tmp_path / 'run'}" in said
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["up"]["broker_bytes"] > 0


def test_no_process_outlives_a_runner_that_is_killed(tiny_base: Path, tmp_path: Path) -> None:
    endless = scenario(tiny_base, training={"epochs": 10_000, "batch_size": 4})
    with started(arguments(endless, tmp_path)) as process:
        lines_until(process, "epoch 1 done")
        below = children(process.pid)
        assert len(below) == 4
        with outlived(list(below)):
            process.kill()
    check_readable(tmp_path / "run")


def test_an_agent_that_is_killed_ends_the_run_by_name(tiny_base: Path, tmp_path: Path) -> None:
    endless = scenario(tiny_base, training={"epochs": 10_000, "batch_size": 4})
    with started(arguments(endless, tmp_path)) as process:
        lines_until(process, "epoch 1 done")
        below = children(process.pid)
        agent = next(pid for pid, command in below.items() if "agent1.toml" in command)
        with outlived([process.pid, *below]):
            os.kill(agent, signal.SIGKILL)
        said, status = process.stderr.read() if process.stderr else "", process.wait()
    assert status == 1, said
    log = tmp_path / "run" / "agent1.log"
    assert said.splitlines()[-1] == f"error: agent1: was ended by SIGKILL; its log is {log}"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["end"].startswith("agent1: was ended by SIGKILL")


def test_what_an_agent_finds_wrong_ends_the_run_by_name_and_leaves_nothing(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_base.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    (base / "model.safetensors").write_bytes(b"no safetensors")
    with started(arguments(scenario(base), tmp_path)) as process:
        said = process.communicate()[1]
    assert process.returncode == 2
    assert re.fullmatch(r"error: (agent\d|server): .*model\.safetensors: no safetensors file.*", said.splitlines()[-1])
    assert not (tmp_path / "run").exists()


def test_the_programs_run_without_the_runner_and_say_what_they_do(tiny_base: Path, tmp_path: Path) -> None:
    data = {"train": 16, "validation": 8, "test": 4}
    training = {"epochs": 1, "batch_size": 4}
    evaluation = {"bleu": 2, "max_new_tokens": 4}
    settings = {"threads": 1, "data": data, "training": training, "evaluation": evaluation}
    (tmp_path / "server.toml").write_text(tomli_w.dumps(settings))

    async def programs() -> dict[str, tuple[int | None, str]]:
        async with engine("embedded", tmp_path) as address, asyncio.timeout(PATIENCE_S):
            shared = ["--broker", f"mqtt://{address.host}:{address.port}", "--run", "lab", "--model", str(tiny_base)]
            out = ["--clients", "2", "--out", str(tmp_path / "run")]
            lines = {"server": ["server", "--config", str(tmp_path / "server.toml"), *out, *shared]}
            for number in range(2):
                own = ["--name", f"dev{number}", "--shard", f"{number}/2", "--set", "data.train=16"]
                lines[f"dev{number}"] = ["agent", *own, *shared]
            started = {
                name: await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "testbed", *line),
                    stderr=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    env=surroundings(),
                )
                for name, line in lines.items()
            }
            said = await asyncio.gather(*(process.communicate() for process in started.values()))
            return {
                name: (process.returncode, errors.decode())
                for (name, process), (_, errors) in zip(started.items(), said, strict=True)
            }

    ended = asyncio.run(programs())
    assert {status for status, _ in ended.values()} == {0}, ended
    for line in ("server: ready: run=lab clients=2", "server: hello: client=dev1 samples=8", "server: epoch: epoch=0"):
        assert line in ended["server"][1]
    assert "dev0: ready: name=dev0 samples=8\ndev0: joined: " in ended["dev0"][1]
    assert len(metrics(tmp_path / "run", "step")) == 2
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()

"""Studies whose runs are real: what the line of a run keeps of it, and that a run ends with its study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner

from broker.settings import as_table
from testbed.__main__ import main
from testbed.study.record import short
from testbed.study.results import read
from tests.runs import tiny_scenario

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> Path:
    """The working directory with a tiny scenario of two clients, and a plan that runs it two ways."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tomli_w.dumps(as_table(tiny_scenario(tiny_base, clients=2))))
    runs = [
        {"name": "splitlora", "scenarios": ["splitlora"]},
        {"name": "bang-bang", "scenarios": ["splitcom", "bang-bang", "u-shape"]},
    ]
    table = {"study": {"name": "real", "scenarios": ["tiny.toml"]}, "axes": {"seed": [3]}, "runs": runs}
    Path("plan.toml").write_text(tomli_w.dumps(table))
    return tmp_path


def test_a_line_keeps_what_the_runs_own_files_say(here: Path) -> None:
    arguments = ["run", "plan.toml", "--results", "r.jsonl", "--keep", "kept", "--jobs", "2"]
    result = CliRunner().invoke(main, ["study", *arguments], prog_name="splitcom")
    assert result.exit_code == 0, result.output
    lines = {line["method"]: line for line in read(Path("r.jsonl"))[0]}
    assert set(lines) == {"splitlora", "bang-bang"}
    for method, line in lines.items():
        (directory,) = (path.parent for path in Path("kept").glob(f"*{method}*/summary.json"))
        summary = json.loads((directory / "summary.json").read_text())
        for key in ("total_bytes", "perplexity", "bleu", "adapter_bytes", "skip_ratios"):
            assert line["summary"][key] == summary[key]
        assert line["epochs"]["perplexity"][-1] == short(summary["perplexity"], 6)
        assert len(line["epochs"]["loss"]) == 2
        bits = line["epochs"]["bits"]
        for stream, values in summary["bits_per_value"].items():
            assert bits[stream] == pytest.approx(values, abs=1e-2)
        assert min(map(min, bits.values())) <= bits["all"][0] <= max(map(max, bits.values()))
        assert line["cpu_s"] > 1
    assert lines["bang-bang"]["place"]["shape"] == "u"
    assert lines["bang-bang"]["epochs"]["thresholds"].keys() == {"activation_up", "activation_down"}
    assert "thresholds" not in lines["splitlora"]["epochs"]


def test_a_run_ends_when_its_standard_input_closes(here: Path) -> None:
    command = [sys.executable, "-m", "testbed.study.child", "run", "tiny.toml", "--transport", "memory"]
    command += ["--set", "training.epochs=10000", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdin is not None
            assert running.stderr is not None
            assert any("epoch 1 done" in line for line in iter(running.stderr.readline, ""))
            running.stdin.close()
            assert running.wait(PATIENCE_S) == 130
        finally:
            running.kill()
    assert json.loads(Path("run", "summary.json").read_text())["end"] == "interrupted"

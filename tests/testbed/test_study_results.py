"""What a results file keeps of runs: series by hand, short lines, and files that are not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitcom.config import STREAMS
from splitcom.errors import DataError
from testbed.scenario import Scenario
from testbed.study.recipe import recipe
from testbed.study.record import line, of_run, series
from testbed.study.results import appending, latest, read
from tests.study_program import leave


def result(key: str = "s/m/seed=0", **more: Any) -> dict[str, Any]:
    study, method, _ = key.split("/")
    return {"key": key, "study": study, "method": method, "place": {}, "settings": {}, "summary": {}, **more}


def packet(stream: str, epoch: int, sent: tuple[int, int], skips: tuple[int, int], raw: int) -> dict[str, Any]:
    kinds = {kind: count for kind, count in (("keyframe", sent), ("skip", skips)) if count[0]}
    return {"row": "packet", "stream": stream, "epoch": epoch, "kinds": kinds, "framing": 10, "stages": {"raw": raw}}


def test_bits_are_those_of_whole_packets_over_all_values_that_were_due() -> None:
    packets = [
        packet("activation_up", 0, (2, 190), (0, 0), 800),  # 200 bytes for 200 values
        packet("activation_up", 1, (1, 90), (1, 0), 800),  # 100 bytes for 200 values
        packet("activation_up", 1, (0, 0), (2, 40), 800),  # 50 bytes for 200 values
        packet("gradient_down", 1, (2, 390), (0, 0), 400),  # 400 bytes for 100 values
    ]
    found = series([], packets)
    assert found["bits"] == {
        "activation_up": [8.0, 8 * 150 / 400],
        "gradient_down": [None, 32.0],
        "all": [8.0, 8 * 550 / 500],
    }
    assert found["skip_ratio"] == {"activation_up": [0.0, 0.75], "gradient_down": [None, 0.0], "all": [0.0, 0.5]}


def test_series_are_means_per_epoch_and_null_where_an_epoch_has_none() -> None:
    metrics: list[dict[str, Any]] = [
        {"row": "evaluation", "epoch": -1, "perplexity": 90.0},
        {"row": "step", "epoch": 0, "loss": 4.0},
        {"row": "step", "epoch": 0, "loss": 2.0},
        {"row": "step", "epoch": 1, "loss": float("nan")},
        {"row": "evaluation", "epoch": 1, "perplexity": 12.3456789},
        {"row": "control", "epoch": 0, "thresholds": {"activation_up": 0.9}, "upload_ratio": {"activation_up": 1.0}},
        {"row": "control", "epoch": 1, "thresholds": {"activation_up": 0.8}, "upload_ratio": {"activation_up": 0.5}},
        {"row": "control", "epoch": 1, "thresholds": {"activation_up": 0.7}, "upload_ratio": {"activation_up": 0.5}},
        {"row": "control", "epoch": 1, "thresholds": {"activation_up": 0.1}, "upload_ratio": {}},
    ]
    metrics[-3]["values"] = {"noise": 0.3, "reward": None}
    found = series(metrics, [])
    assert found["perplexity"] == [None, 12.3457]
    assert found["loss"] == [3.0, None]
    assert found["thresholds"] == {"activation_up": [0.9, 0.75]}
    assert found["values"] == {"noise": [None, 0.3]}


def test_a_line_of_a_long_run_with_all_streams_is_short() -> None:
    epochs = 20
    packets = [packet(stream, epoch, (3, 12345), (5, 7), 987654) for stream in STREAMS for epoch in range(epochs)]
    metrics = [{"row": "evaluation", "epoch": epoch, "perplexity": 12.345678901} for epoch in range(epochs)]
    thresholds = dict.fromkeys(STREAMS, 0.123456)
    values = dict.fromkeys(("noise", "reward", "critic_loss", "transitions"), 0.0123456)
    control = {"row": "control", "thresholds": thresholds, "upload_ratio": thresholds, "values": values}
    rows = [*metrics, *({**control, "epoch": epoch} for epoch in range(epochs))]
    made = line({"key": "k"}, recipe(Scenario()), 12.345, {"epochs": series(rows, packets)})
    assert len(json.dumps(made, separators=(",", ":"))) < 8000


def test_the_record_of_a_run_is_read_from_its_directory(tmp_path: Path) -> None:
    leave(tmp_path / "run", seed=3, threshold=0.5)
    record = of_run(tmp_path / "run")
    assert record["summary"]["kinds"] == {"up": {"keyframe": 500}, "down": {"keyframe": 500}}
    assert record["summary"]["agent_memory_bytes"] is None
    assert record["epochs"]["bits"] == {"activation_up": [8.0, 0.16], "all": [8.0, 0.16]}


def test_the_memory_of_a_run_is_that_of_its_largest_agent(tmp_path: Path) -> None:
    leave(tmp_path / "run", seed=3, threshold=0.5)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary["agent_memory_bytes"] = {"agent0": {"activation_up": 3, "gradient_down": 4}, "agent1": {"activation_up": 6}}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    assert of_run(tmp_path / "run")["summary"]["agent_memory_bytes"] == 7


def test_a_run_that_has_not_finished_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"summary\.json: No such file or directory"):
        of_run(tmp_path)
    (tmp_path / "summary.json").write_text('{"end": "interrupted"}')
    with pytest.raises(DataError, match="the run in it has not finished: interrupted"):
        of_run(tmp_path)
    (tmp_path / "summary.json").write_text('{"end": "finished"}')
    with pytest.raises(DataError, match=r"versions\.json: No such file"):
        of_run(tmp_path)
    leave(tmp_path / "run", seed=3, threshold=0.5)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"row": "evaluation"}\n')
    with pytest.raises(DataError, match="its records are not as a run writes them: KeyError"):
        of_run(tmp_path / "run")


def test_lines_are_appended_whole_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "r.jsonl"
    made = [result(), result("s/m/seed=1", text="line\nbreak")]
    for each in made:
        with appending(file) as results:
            results.append(each)
    assert read(file) == (made, 0)


def test_an_unfinished_last_line_is_not_read_and_is_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(result()) + '\n{"key": "s/m/se')
    assert read(file) == ([result()], 15)
    with appending(file) as results:
        results.append(result("s/m/seed=1"))
    assert read(file) == ([result(), result("s/m/seed=1")], 0)


def test_a_file_with_nothing_but_an_unfinished_line_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text('{"key"')
    with appending(file):
        pass
    assert file.read_bytes() == b""


def test_a_number_that_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    with appending(file) as results, pytest.raises(ValueError, match="not JSON compliant"):
        results.append(result(cpu_s=float("nan")))
    assert file.read_bytes() == b""


def test_of_lines_with_one_key_the_last_counts_across_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text(json.dumps(result(n=1)) + "\n" + json.dumps(result("s/m/seed=1", n=2)) + "\n")
    new.write_text(json.dumps(result(n=3)) + "\n")
    assert [entry["n"] for entry in latest([old, new])] == [3, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n", "line 2: not JSON"),
        ("[]\n", "line 2: no table in it; valid: a line of `splitcom study run`"),
        ('{"key": 3}\n', "line 2: key is missing or no str"),
        (json.dumps(result() | {"summary": None}) + "\n", "line 2: summary is missing or no dict"),
    ],
)
def test_a_line_that_is_no_result_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(result()) + "\n" + text)
    with pytest.raises(DataError, match=f"r.jsonl: {said}"):
        read(file)
    with pytest.raises(DataError, match=said), appending(file):
        pass

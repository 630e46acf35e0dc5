"""`splitcom bench size` writes a base that is enough for an agent, and its rows account for the agent's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from splitcom.config import ModelConfig
from splitcom.errors import SplitComError
from splitcom.partition import load_head, load_tail
from splitcom.weights import Weights
from testbed.__main__ import main
from testbed.bench import size as module
from testbed.bench.size import bench_size, render, write_base
from testbed.bench.sizes import SIZES, Size
from tests.refusals import check_refused

TINY = Size(4, 32, 2, rank=4, cut=2, vocabulary=384, positions=64, length=16, batch_size=4)
SAMPLES, TOKENS, C = 8, 15, 32


def test_the_base_has_what_head_and_tail_need_and_no_body(tmp_path: Path) -> None:
    write_base(tmp_path, TINY)
    weights = Weights(str(tmp_path))
    blocks = {name.split(".")[2] for name in weights.names() if ".h." in name}
    assert blocks == {"0", "1", "3"}
    model = ModelConfig(str(tmp_path), device="cpu", cut=2, tail=1)
    assert [len(load(weights, model).blocks()) for load in (load_head, load_tail)] == [2, 1]
    assert weights.config.num_hidden_layers == 4


@pytest.mark.parametrize(("name", "blocks", "width"), [("small", 12, 768), ("xl", 48, 1600)])
def test_sizes_are_those_of_gpt2(name: str, blocks: int, width: int) -> None:
    size = SIZES[name]
    assert (size.blocks, size.width, size.width / size.heads) == (blocks, width, 64)
    assert (size.vocabulary, size.cut, size.batch_size, size.length) == (50257, 3, 8, 512)


@pytest.mark.slow
def test_each_row_says_what_an_agent_of_that_kind_needs() -> None:
    said: list[str] = []
    rows = bench_size({"tiny": TINY}, SAMPLES, said.append)
    assert [(row["shape"], row["sender_memory"]) for row in rows] == [
        ("standard", "sketch"),
        ("standard", "full"),
        ("u", "sketch"),
    ]
    assert len(said) == 1 + len(rows)
    sketches, whole, u = (row["references_bytes"] for row in rows)
    tensors = 4 * SAMPLES * TOKENS * C
    assert sketches["activation_up"] < SAMPLES * (4 * 64 + 64)
    assert tensors <= whole["activation_up"] < tensors + SAMPLES * 64
    assert u["activation_up"] == sketches["activation_up"]
    assert tensors <= u["activation_down"] < tensors + SAMPLES * 64
    # INT8 before LZ4: a byte per value and two per token.
    assert SAMPLES // 2 * TOKENS * C * 0.5 < rows[0]["keyframe_step_up_bytes"] < SAMPLES // 2 * TOKENS * (C + 2) + 500
    assert rows[0]["weights_bytes"] < rows[2]["weights_bytes"]
    for row in rows:
        assert row["imports_bytes"] <= row["loading_peak_bytes"] <= row["peak_bytes"]
        assert row["step_cpu_s"] > 0
    lines = render(rows).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1


@pytest.mark.slow
def test_an_agent_that_fails_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_packets", lambda row, channels: None)
    with pytest.raises(SplitComError, match=r"status 1: FileNotFoundError") as caught:
        bench_size({"tiny": TINY}, SAMPLES, lambda text: None)
    assert "\n" not in str(caught.value)


def test_a_size_that_is_none_is_refused() -> None:
    check_refused(CliRunner().invoke(main, ["bench", "size", "--shapes", "small,medium"]), "'medium'; valid: small, xl")

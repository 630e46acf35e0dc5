"""Weights are found in every layout, and only what is asked for is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitcom.config import ModelConfig
from splitcom.errors import PartitionError
from splitcom.partition import load_body, load_head, load_tail
from splitcom.weights import Weights, digest
from tests.bases import make_base


def rewrite(base: Path, target: Path, layout: str) -> Path:
    """The same weights in another layout."""
    target.mkdir()
    for name in ("config.json",):
        (target / name).write_text((base / name).read_text())
    tensors = load_file(base / "model.safetensors")
    if layout == "bare names":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    elif layout == "mask buffers":
        tensors |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 8, 8) for i in range(4)}
        tensors |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(4)}
    elif layout == "explicit head":
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    elif layout == "sharded":
        names = sorted(tensors)
        shards = {"model-00001.safetensors": names[::2], "model-00002.safetensors": names[1::2]}
        for file, members in shards.items():
            save_file({name: tensors[name] for name in members}, target / file)
        index = {name: file for file, members in shards.items() for name in members}
        (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        return target
    save_file(tensors, target / "model.safetensors")
    return target


@pytest.mark.parametrize("layout", ["as saved", "bare names", "mask buffers", "explicit head", "sharded"])
def test_every_layout_gives_the_same_parts(tiny_base: Path, tmp_path: Path, layout: str) -> None:
    base = rewrite(tiny_base, tmp_path / "base", layout)
    for load in (load_head, load_body, load_tail):
        model = ModelConfig(base=str(base), cut=2, tail=1)
        expected = load(Weights(str(tiny_base)), model).state_dict()
        found = load(Weights(str(base)), model).state_dict()
        assert digest(found) == digest(expected)


def test_untied_output_layer_is_read_as_it_is(tmp_path: Path) -> None:
    base = make_base(tmp_path / "untied", tie_word_embeddings=False)
    weights = Weights(str(base))
    tensors = weights.read(["lm_head.weight", "transformer.wte.weight"])
    assert not torch.equal(tensors["lm_head.weight"], tensors["transformer.wte.weight"])


def test_parts_hold_each_tensor_once_and_together_the_whole_model(tiny_base: Path) -> None:
    weights = Weights(str(tiny_base))
    model = ModelConfig(base=str(tiny_base), cut=1, tail=1)
    held = [set(load(weights, model).state_dict()) for load in (load_head, load_body, load_tail)]
    assert sum(map(len, held)) == len(set.union(*held))
    assert set.union(*held) == set(weights.names())


def test_digest_tells_different_weights_apart(tiny_base: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", seed=1)
    model = ModelConfig(cut=1)
    heads = [load_head(Weights(str(base)), model).state_dict() for base in (tiny_base, other)]
    assert digest(heads[0]) != digest(heads[1])


@pytest.mark.slow
def test_an_agent_needs_memory_for_its_head_only(tmp_path: Path) -> None:
    base = make_base(tmp_path / "deep", n_embd=256, n_layer=14, n_positions=64, initializer_range=0.02)
    whole = (base / "model.safetensors").stat().st_size
    code = (
        "import sys\n"
        "from broker.program import peak_bytes\n"
        "from splitcom.config import ModelConfig\n"
        "from splitcom.partition import load_head\n"
        "from splitcom.weights import Weights\n"
        "weights = Weights(sys.argv[1])\n"
        "before = peak_bytes()\n"
        "head = load_head(weights, ModelConfig(cut=1))\n"
        "print(peak_bytes() - before, sum(p.nbytes for p in head.parameters()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(base)], check=True, capture_output=True, text=True)
    grown, held = map(int, done.stdout.split())
    assert held < whole / 8
    assert grown < whole / 2, f"loading a head of {held} bytes took {grown} of the {whole} bytes on disk"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing directory", "is no directory"),
        ("no weights", "no safetensors weights"),
        ("other family", "is of type llama"),
        ("broken file", "no safetensors file"),
        ("missing tensor", "no tensor 'transformer.h.0.ln_1.weight'"),
        ("other shape", "config.json says"),
    ],
)
def test_a_base_that_cannot_be_used_is_named(tiny_base: Path, tmp_path: Path, change: str, message: str) -> None:
    base = rewrite(tiny_base, tmp_path / "base", "as saved")
    config = json.loads((base / "config.json").read_text())
    file = base / "model.safetensors"
    if change == "missing directory":
        base = tmp_path / "nowhere"
    elif change == "no weights":
        file.unlink()
    elif change == "other family":
        (base / "config.json").write_text(json.dumps({"model_type": "llama"}))
    elif change == "broken file":
        file.write_bytes(b"no tensors in here")
    elif change == "missing tensor":
        save_file({n: t for n, t in load_file(file).items() if n != "transformer.h.0.ln_1.weight"}, file)
    else:
        (base / "config.json").write_text(json.dumps(config | {"n_positions": 48}))
    with pytest.raises(PartitionError, match=message) as caught:
        load_head(Weights(str(base)), ModelConfig(cut=1))
    assert "\n" not in str(caught.value)

"""Adapters do not depend on the cut, travel as safetensors, and average as the law says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import save, save_file
from transformers import AutoModelForCausalLM

from splitcom.adapters import (
    adapter_parameters,
    adapter_state,
    add_adapter,
    export,
    fedavg,
    first_adapter,
    from_bytes,
    load_adapter_state,
)
from splitcom.config import LoraSettings, ModelConfig
from splitcom.errors import CodecError, ConfigError
from splitcom.evaluate import SplitModel
from splitcom.partition import load_body, load_head, load_tail
from splitcom.weights import Weights


def adapted(base: Path, cut: int, tail: int = 0, seed: int = 3):
    model = ModelConfig(base=str(base), cut=cut, tail=tail)
    weights = Weights(str(base))
    found = [load(weights, model) for load in (load_head, load_body, load_tail)]
    for part in found:
        add_adapter(part, LoraSettings(), seed)
    return found


def whole_state(parts) -> dict[str, torch.Tensor]:
    return {name: tensor for part in parts for name, tensor in adapter_state(part).items()}


def scrambled(parts) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in parts:
            for parameter in adapter_parameters(part):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_an_adapter_does_not_depend_on_the_cut(tiny_base: Path) -> None:
    states = [whole_state(adapted(tiny_base, cut, tail)) for cut, tail in ((1, 0), (2, 1), (3, 0))]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


def test_an_adapter_depends_on_the_seed_and_starts_at_no_change(tiny_base: Path) -> None:
    first, second = (whole_state(adapted(tiny_base, 1, seed=seed)) for seed in (1, 2))
    name = "transformer.h.0.attn.c_attn.lora_A.weight"
    assert not torch.equal(first[name], second[name])
    assert float(first[name].abs().max()) <= 1 / np.sqrt(32)
    ids = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tiny_base)(ids).logits
        assert torch.equal(SplitModel(*adapted(tiny_base, 2)).logits(ids), plain)


def test_only_the_adapter_is_trainable(tiny_base: Path) -> None:
    for part in adapted(tiny_base, 1, 1):
        trainable = {name for name, p in part.named_parameters() if p.requires_grad}
        assert all(".lora_" in name for name in trainable)
        assert len(trainable) == len(adapter_parameters(part))


def test_a_file_gives_the_same_adapter_back(tiny_base: Path, tmp_path: Path) -> None:
    head, *_ = adapted(tiny_base, 2)
    scrambled([head])
    save_file(adapter_state(head), tmp_path / "adapter.safetensors")
    state = from_bytes((tmp_path / "adapter.safetensors").read_bytes())
    other, *_ = adapted(tiny_base, 2, seed=9)
    load_adapter_state(other, state)
    for name, tensor in adapter_state(head).items():
        assert torch.equal(tensor, adapter_state(other)[name])


def test_peft_reads_the_exported_adapter_and_gives_the_same_logits(tiny_base: Path, tmp_path: Path) -> None:
    parts = adapted(tiny_base, 1, 1)
    scrambled(parts)
    export(whole_state(parts), LoraSettings(), str(tiny_base), tmp_path / "adapter")
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "adapter").eval()
    ids = torch.randint(0, 384, (2, 15), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(SplitModel(*(part.eval() for part in parts)).logits(ids), whole(ids).logits)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04pickle", "no safetensors archive"),
        (save({"a": torch.tensor([float("nan")])}), "not finite"),
        (save({"a": torch.tensor([1])}), "not finite"),
    ],
)
def test_bytes_that_are_no_adapter_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        from_bytes(data)


def test_an_adapter_of_another_part_or_shape_is_refused_whole(tiny_base: Path) -> None:
    head, body, _ = adapted(tiny_base, 2)
    before = adapter_state(head)
    with pytest.raises(CodecError, match=r"not of this part|is missing"):
        load_adapter_state(head, adapter_state(body))
    smaller = {name: tensor[..., :1] for name, tensor in before.items()}
    with pytest.raises(CodecError, match="has shape"):
        load_adapter_state(head, smaller)
    assert all(torch.equal(tensor, adapter_state(head)[name]) for name, tensor in before.items())


@pytest.mark.parametrize("targets", [("q_proj",), ("c_attn", "q_proj"), ("c_attn", "wte")])
def test_targets_that_the_blocks_do_not_have_are_named(tiny_base: Path, targets: tuple[str, ...]) -> None:
    head = load_head(Weights(str(tiny_base)), ModelConfig(base=str(tiny_base), cut=1))
    with pytest.raises(ConfigError, match=rf"^lora\.targets: {targets[-1]}"):
        add_adapter(head, LoraSettings(targets=targets), 0)


def test_the_first_adapter_is_the_same_whatever_a_part_computes_in(tiny_base: Path) -> None:
    weights = Weights(str(tiny_base))
    firsts = []
    for dtype in ("float32", "bfloat16"):
        head = load_head(weights, ModelConfig(base=str(tiny_base), cut=2, dtype=dtype))  # type: ignore[arg-type]
        add_adapter(head, LoraSettings(), 0)
        firsts.append(first_adapter(head, 0))
    assert firsts[0].keys() == firsts[1].keys()
    assert all(torch.equal(tensor, firsts[1][name]) for name, tensor in firsts[0].items())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8),
)
def test_the_mean_of_equal_adapters_is_that_adapter(examples: list[int], values: list[float]) -> None:
    state = {"w": torch.tensor(values)}
    assert torch.equal(fedavg([(count, state) for count in examples])["w"], state["w"])


def test_the_mean_is_weighted_by_examples() -> None:
    mean = fedavg([(1, {"w": torch.tensor([0.0])}), (3, {"w": torch.tensor([4.0])})])
    assert mean["w"].item() == 3.0


def test_the_mean_of_each_tensor_is_over_the_adapters_that_hold_it() -> None:
    shallow = {"transformer.h.0.x": torch.full((2, 2), 1.0)}
    deep = {"transformer.h.0.x": torch.full((2, 2), 5.0), "transformer.h.1.x": torch.full((2, 2), 7.0)}
    mean = fedavg([(3, shallow), (1, deep)])
    assert torch.equal(mean["transformer.h.0.x"], torch.full((2, 2), 2.0))
    assert torch.equal(mean["transformer.h.1.x"], torch.full((2, 2), 7.0))

"""A cut model is the model: same outputs, causal in every part, and the same with a cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from splitcom.config import ModelConfig
from splitcom.errors import PartitionError
from splitcom.evaluate import SplitModel
from splitcom.partition import load_body, load_head, load_tail
from splitcom.weights import Weights
from tests.bases import make_base

ATTENTION = ["sdpa", "eager"]
PARTS = ["head", "body", "tail"]


def parts(base: Path, cut: int, tail: int, attention: str):
    model = ModelConfig(base=str(base), cut=cut, tail=tail, attention=attention)
    weights = Weights(str(base))
    return load_head(weights, model), load_body(weights, model), load_tail(weights, model)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 384, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize(("cut", "tail"), [(1, 0), (2, 1), (3, 0), (1, 2)])
def test_parts_in_a_row_equal_the_whole_model_bit_for_bit(tiny_base: Path, attention: str, cut: int, tail: int) -> None:
    whole = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation=attention)
    ids = tokens(3, 17)
    with torch.no_grad():
        assert torch.equal(SplitModel(*parts(tiny_base, cut, tail, attention)).logits(ids), whole(ids).logits)


def test_scaling_by_layer_number_survives_the_cut(tmp_path: Path) -> None:
    base = make_base(tmp_path / "scaled", scale_attn_by_inverse_layer_idx=True)
    ids = tokens(2, 9)
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(base)(ids).logits
        assert torch.equal(SplitModel(*parts(base, 2, 1, "sdpa")).logits(ids), whole)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("part", PARTS)
def test_a_later_token_changes_no_earlier_output(tiny_base: Path, attention: str, part: str) -> None:
    head, body, tail = parts(tiny_base, 1, 1, attention)
    changed = 6
    with torch.no_grad():
        if part == "head":
            run, before = head, tokens(2, 12)
            after = before.clone()
            after[:, changed] = (after[:, changed] + 1) % 384
        else:
            run, before = (body if part == "body" else tail), head(tokens(2, 12))
            after = before.clone()
            after[:, changed] += 1.0
        first, second = run(before), run(after)
    assert torch.equal(first[:, :changed], second[:, :changed])
    assert not torch.equal(first[:, changed:], second[:, changed:])


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_with_a_cache_equals_the_part_without(tiny_base: Path, attention: str, part: str) -> None:
    head, body, tail = parts(tiny_base, 2, 1, attention)
    ids = tokens(2, 10)
    with torch.no_grad():
        run, inputs = {"head": (head, ids), "body": (body, head(ids)), "tail": (tail, body(head(ids)))}[part]
        cache = DynamicCache()
        pieces = [run(inputs[:, first:last], cache) for first, last in ((0, 4), (4, 5), (5, 6), (6, 10))]
        whole = run(inputs)
    assert cache.get_seq_length() == 10
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
def test_generation_with_caches_equals_generation_without(tiny_base: Path, attention: str) -> None:
    model = SplitModel(*parts(tiny_base, 2, 1, attention))
    prompts = [[5, 9, 11], [7], [300, 2, 8, 19, 4, 4]]
    generated = model.generate(prompts, 12, eos=0)
    for prompt, found in zip(prompts, generated, strict=True):
        ids, expected = list(prompt), []
        for _ in range(12):
            with torch.no_grad():
                token = int(model.logits(torch.tensor([ids]))[0, -1].argmax())
            if token == 0:
                break
            ids.append(token)
            expected.append(token)
        assert found == expected


def test_generation_stops_at_the_last_position(tiny_base: Path) -> None:
    model = SplitModel(*parts(tiny_base, 1, 0, "sdpa"))
    outputs = model.generate([[3] * 250, [4] * 10], 50, eos=383)
    assert all(len(output) <= 6 for output in outputs)


def test_dropout_of_the_frozen_base_is_off_even_in_training(tmp_path: Path) -> None:
    base = make_base(tmp_path / "dropout", attn_pdrop=0.5, embd_pdrop=0.5, resid_pdrop=0.5)
    head, _, _ = parts(base, 2, 0, "sdpa")
    head.train()
    ids = tokens(2, 8)
    assert torch.equal(head(ids), head(ids))


def test_parts_are_frozen(tiny_base: Path) -> None:
    assert not any(p.requires_grad for part in parts(tiny_base, 1, 1, "sdpa") for p in part.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_configured_dtype(tiny_base: Path, dtype: str) -> None:
    head = load_head(Weights(str(tiny_base)), ModelConfig(base=str(tiny_base), cut=1, dtype=dtype, device="auto"))
    assert {p.dtype for p in head.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize(("cut", "tail", "message"), [(4, 0, "valid: 1 to 3"), (3, 1, "valid: 1 to 2"), (1, 4, "tail")])
def test_a_cut_outside_the_model_is_named_with_what_is_valid(
    tiny_base: Path, cut: int, tail: int, message: str
) -> None:
    with pytest.raises(PartitionError, match=message):
        load_head(Weights(str(tiny_base)), ModelConfig(base=str(tiny_base), cut=cut, tail=tail))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here, so asking for it is no error")
def test_cuda_where_there_is_none_is_an_error(tiny_base: Path) -> None:
    with pytest.raises(PartitionError, match="cuda is not available"):
        load_head(Weights(str(tiny_base)), ModelConfig(base=str(tiny_base), cut=1, device="cuda"))


def test_head_and_tail_in_one_process_share_a_tied_embedding(tiny_base: Path, tmp_path: Path) -> None:
    weights, model = Weights(str(tiny_base)), ModelConfig(shape="u", cut=1, tail=1)
    head = load_head(weights, model)
    shared, alone = load_tail(weights, model, head), load_tail(weights, model)
    assert shared.lm_head.weight.data_ptr() == head.transformer.wte.weight.data_ptr()  # type: ignore[union-attr, operator]
    hidden = torch.randn(2, 5, 32)
    assert torch.equal(shared(hidden), alone(hidden))
    untied = Weights(str(make_base(tmp_path / "untied", tie_word_embeddings=False)))
    assert untied.config.tie_word_embeddings is False
    apart = load_tail(untied, model, load_head(untied, model))
    assert torch.equal(apart.lm_head.weight, load_tail(untied, model).lm_head.weight)

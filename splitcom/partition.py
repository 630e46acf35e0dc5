"""A GPT-2-family causal LM cut into head, body and tail, each holding only its own weights.

A part keeps the whole model's names (`transformer.h.5...` is block 5 wherever it runs), so adapters, digests and
exports need no renaming. Two things a block loses when it leaves its model are put back here: the causal mask (a
GPT-2 block of transformers 5 under eager attention, or with its mask left out, attends to the future without a
word) and layer numbers that start at 0 in each part's own cache (a whole-model number makes the cache report
length 0 and shifts positions).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import DynamicCache, GPT2Config
from transformers.masking_utils import create_causal_mask
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from splitcom.base import check_cuts
from splitcom.config import ModelConfig
from splitcom.errors import PartitionError
from splitcom.weights import Weights

P = TypeVar("P", bound="Part")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Part(nn.Module):
    """Blocks [start, stop) of the model; the subclasses add what stands before the first and after the last."""

    def __init__(self, config: GPT2Config, start: int, stop: int) -> None:
        super().__init__()
        self.config, self.start = config, start
        self.transformer = nn.Module()
        self.transformer.h = nn.ModuleDict({str(i): GPT2Block(config, layer_idx=i) for i in range(start, stop)})
        for local, block in enumerate(self.blocks()):
            block.attn.layer_idx = local

    def blocks(self) -> list[Any]:
        """The blocks in order."""
        return list(self.transformer.h.values())  # type: ignore[operator]

    def run(
        self, hidden: torch.Tensor, cache: DynamicCache | None, keys: torch.Tensor | None, first: int = 0
    ) -> torch.Tensor:
        """(B, T, C) -> (B, T, C) through the blocks, causally, leaving out those before block `first` of the model.

        `cache` holds the keys and values of earlier positions of this part; `keys` is (B, earlier + T), 0 where a
        position is padding in front of a sample (padding behind one needs no mask: nothing looks back at it).
        """
        mask = create_causal_mask(config=self.config, inputs_embeds=hidden, attention_mask=keys, past_key_values=cache)
        for block in self.blocks()[max(0, first - self.start) :]:
            hidden = block(hidden, past_key_values=cache, attention_mask=mask, use_cache=cache is not None)
        return hidden


class Head(Part):
    """Token and position embeddings and blocks [0, cut): what an agent runs."""

    def __init__(self, config: GPT2Config, start: int, stop: int) -> None:
        super().__init__(config, start, stop)
        self.transformer.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(
        self,
        tokens: torch.Tensor,
        cache: DynamicCache | None = None,
        keys: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Token ids (B, T) -> hidden states (B, T, C); `positions` (B, T) defaults to those after the cache."""
        if positions is None:
            past = cache.get_seq_length() if cache is not None else 0
            positions = (torch.arange(tokens.shape[1], device=tokens.device) + past).unsqueeze(0)
        hidden: torch.Tensor = self.transformer.wte(tokens) + self.transformer.wpe(positions)  # type: ignore[operator]
        return self.run(hidden, cache, keys)


class Body(Part):
    """The blocks between head and tail: what the server runs in every shape."""

    def forward(
        self, hidden: torch.Tensor, cache: DynamicCache | None = None, keys: torch.Tensor | None = None, first: int = 0
    ) -> torch.Tensor:
        """Hidden states (B, T, C) -> hidden states (B, T, C), from block `first` of the model on where that is within.

        A `first` behind the body's own start is a client that cuts later than others; it goes without a cache.
        """
        return self.run(hidden, cache, keys, first)


class Tail(Part):
    """The last blocks (there may be none), the final norm and the output layer."""

    def __init__(self, config: GPT2Config, start: int, stop: int) -> None:
        super().__init__(config, start, stop)
        self.transformer.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        hidden: torch.Tensor,
        cache: DynamicCache | None = None,
        keys: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states (B, T, C) -> logits (B, T, V), or (len(rows), V) of the named rows of (B * T, C) alone."""
        if self.blocks():
            hidden = self.run(hidden, cache, keys)
        if rows is not None:
            hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, rows)
        logits: torch.Tensor = self.lm_head(self.transformer.ln_f(hidden))  # type: ignore[operator]
        return logits


def load_head(weights: Weights, model: ModelConfig) -> Head:
    """The head [0, cut) on the configured device, frozen."""
    cut, _ = boundaries(weights.config, model)
    return _load(Head, weights, model, 0, cut)


def load_body(weights: Weights, model: ModelConfig) -> Body:
    """The body [cut, blocks - tail) on the configured device, frozen."""
    cut, tail = boundaries(weights.config, model)
    return _load(Body, weights, model, cut, tail)


def load_tail(weights: Weights, model: ModelConfig, head: Head | None = None) -> Tail:
    """The tail [blocks - tail, blocks) with the final norm and the output layer, frozen.

    Where the base ties its output layer to the token embedding, and `head` has that, both parts share one tensor.
    """
    _, tail = boundaries(weights.config, model)
    held = {}
    if head is not None and weights.config.tie_word_embeddings:
        held["lm_head.weight"] = head.get_parameter("transformer.wte.weight")
    return _load(Tail, weights, model, tail, weights.config.num_hidden_layers, held)


def boundaries(config: GPT2Config, model: ModelConfig) -> tuple[int, int]:
    """(first block of the body, first block of the tail); PartitionError unless the body keeps at least one block."""
    check_cuts(config.num_hidden_layers, model)
    return model.cut, config.num_hidden_layers - model.tail


def device_of(model: ModelConfig) -> torch.device:
    """`auto` is CUDA where there is one; PartitionError when CUDA is asked for and missing."""
    if model.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if model.device == "cuda" and not torch.cuda.is_available():
        raise PartitionError("model.device: cuda is not available here; valid: auto, cpu")
    return torch.device(model.device)


def _load(
    kind: type[P],
    weights: Weights,
    model: ModelConfig,
    start: int,
    stop: int,
    held: Mapping[str, torch.Tensor] | None = None,
) -> P:
    """The part with its weights: those that are `held` already, the others read."""
    held = held or {}
    config = copy.deepcopy(weights.config)
    # Dropout in the frozen base would look like change to every gate behind it, and LoRA does not need it.
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    config._attn_implementation = model.attention
    with torch.device("meta"):
        part = kind(config, start, stop)
    tensors = {**weights.read(part.state_dict().keys() - held.keys(), DTYPES[model.dtype]), **held}
    for name, parameter in part.named_parameters():
        if tensors[name].shape != parameter.shape:
            found, said = tuple(tensors[name].shape), tuple(parameter.shape)
            raise PartitionError(f"{weights.base}: {name} has shape {found}, config.json says {said}")
    part.load_state_dict(tensors, assign=True)
    return part.requires_grad_(False).to(device_of(model))

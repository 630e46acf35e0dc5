"""The whole model of a finished run in this process: its base and the adapter that it exported."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from splitcom.adapters import AdapterState, add_adapter, from_bytes
from splitcom.errors import CodecError
from splitcom.evaluate import SplitModel
from splitcom.partition import load_body, load_head, load_tail
from splitcom.pretrain import no_bars
from splitcom.tokenizer import load_tokenizer
from splitcom.weights import Weights
from testbed.finished import FinishedRun

PREFIX = "base_model.model."  # what PEFT puts before a whole-model name


@dataclass(frozen=True)
class Whole:
    """All parts with the run's adapter, the base's tokenizer, and the model's number of positions."""

    model: SplitModel
    tokenizer: Any
    positions: int


def load_whole(run: FinishedRun) -> Whole:
    """Put the run's model together, cut as it was and computed with as many threads, so that bits agree.

    Raises PartitionError for a base that cannot be used, CodecError for an adapter that does not fit it.
    """
    scenario = run.scenario
    torch.set_num_threads(scenario.server_threads)
    weights = Weights(scenario.model.base)
    tokenizer = load_tokenizer(scenario.model.base)
    head, body = load_head(weights, scenario.model), load_body(weights, scenario.model)
    model = SplitModel(head, body, load_tail(weights, scenario.model, head))
    for part in model.parts:
        add_adapter(part, scenario.lora, scenario.training.seed)
    load_adapter(model, run.adapter)
    return Whole(model, tokenizer, weights.config.max_position_embeddings)


def load_adapter(model: SplitModel, directory: Path) -> None:
    """Load an adapter in PEFT's layout into the model; CodecError unless names and shapes are exactly the model's."""
    path = directory / "adapter_model.safetensors"
    try:
        state = read_adapter(path)
        odd = sorted(set(state) ^ set(model.adapter()))
        if odd:
            raise CodecError(f"adapter: tensor {odd[0]!r} is {'not of this model' if odd[0] in state else 'missing'}")
        model.load_adapter(state)
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from None


def read_adapter(path: Path) -> AdapterState:
    """An adapter by whole-model names from a file in PEFT's layout."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in from_bytes(path.read_bytes()).items()}


def save_merged(run: FinishedRun, directory: Path) -> None:
    """Write the whole model with the adapter added to its weights, in float32, and its tokenizer, as Hugging Face does.

    Raises as `load_whole` does, before anything is written.
    """
    tokenizer = load_whole(run).tokenizer  # for all that can be wrong with base and adapter
    with no_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's use of transformers, of no interest to the user
        base = AutoModelForCausalLM.from_pretrained(run.scenario.model.base, dtype=torch.float32, use_safetensors=True)
        merged = PeftModel.from_pretrained(base, str(run.adapter)).merge_and_unload()
        merged.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

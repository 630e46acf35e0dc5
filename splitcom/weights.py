"""Where a base's weights lie: safetensors files of any of the usual layouts, read tensor by tensor.

Layouts differ in four ways, all met in the wild: keys with and without the prefix `transformer.`, old `attn.bias`
and `attn.masked_bias` buffers among the weights, an output layer that is tied to the embedding (and then absent),
and an index over several files. Nothing but safetensors is read: other formats can run code when loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, GPT2Config
from transformers.utils import cached_file

from splitcom.base import check_base
from splitcom.config import BaseConfig
from splitcom.errors import PartitionError

FAMILY = {"gpt2"}
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".crossattention.bias")


class Weights:
    """The tensors of one base by whole-model name, such as `transformer.h.3.attn.c_attn.weight`; reads on demand."""

    def __init__(self, base: str) -> None:
        """Raises PartitionError when `base` is neither a directory nor a hub name of a GPT-2-family causal LM."""
        self.base = base
        self.config = _read_config(base)
        self._where = self._index()

    def names(self) -> list[str]:
        """Every tensor of the base; a tied output layer is listed as `lm_head.weight` too."""
        return sorted(self._where)

    def read(self, names: Iterable[str], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """The named tensors in memory of their own; no other tensor is touched."""
        by_file: dict[str, list[str]] = {}
        for name in names:
            if name not in self._where:
                raise PartitionError(f"{self.base}: no tensor {name!r}; the weights do not fit the model's config.json")
            by_file.setdefault(self._where[name][0], []).append(name)
        tensors = {}
        for file, wanted in by_file.items():
            with safe_open(self._path(file), framework="pt") as archive:
                for name in wanted:
                    tensors[name] = archive.get_tensor(self._where[name][1]).to(dtype, copy=True)
        return tensors

    def _path(self, file: str) -> str:
        path = _locate(self.base, file)
        if path is None:
            raise PartitionError(f"{self.base}: {file} is missing")
        return path

    def _index(self) -> dict[str, tuple[str, str]]:
        index = _locate(self.base, "model.safetensors.index.json")
        if index is not None:
            try:
                entries = dict(json.loads(Path(index).read_text())["weight_map"])
            except (ValueError, KeyError, TypeError):
                raise PartitionError(f"{index}: no weight_map in it") from None
        else:
            entries = dict.fromkeys(self._keys("model.safetensors"), "model.safetensors")
        where = {}
        for key, file in entries.items():
            if key.endswith(_BUFFERS):
                continue
            prefixed = key.startswith(("transformer.", "lm_head."))
            where[key if prefixed else f"transformer.{key}"] = (file, key)
        if self.config.tie_word_embeddings and "transformer.wte.weight" in where:
            where["lm_head.weight"] = where["transformer.wte.weight"]
        return where

    def _keys(self, file: str) -> list[str]:
        path = _locate(self.base, file)
        if path is None:
            raise PartitionError(
                f"{self.base}: no model.safetensors; valid: safetensors weights (transformers converts others)"
            )
        try:
            with safe_open(path, framework="pt") as archive:
                return list(archive.keys())
        except SafetensorError as error:
            raise PartitionError(f"{path}: no safetensors file: {error}") from None


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """A short name for frozen weights: two parts agree on it exactly when names, dtypes and values agree."""
    state = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.view(torch.uint8).numpy().data)
    return state.hexdigest()


def base_digest(weights: Weights) -> str:
    """The digest of the embeddings and the first block, which stand for the base: every head holds them."""
    first = ("transformer.wte.", "transformer.wpe.", "transformer.h.0.")
    return digest(weights.read(name for name in weights.names() if name.startswith(first)))


def _read_config(base: str) -> GPT2Config:
    check_base(BaseConfig(base))
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        what = base if Path(base).is_dir() else f"{base} is no directory, and as a hub name it"
        raise PartitionError(f"model.base: {what} cannot be read: {reason}") from None
    if config.model_type not in FAMILY:
        raise PartitionError(f"model.base: {base} is of type {config.model_type}; valid: {', '.join(sorted(FAMILY))}")
    return config


def _locate(base: str, file: str) -> str | None:
    """The local path of a base's file, fetched from the hub when `base` is a hub name; None when there is none."""
    if Path(base).is_dir():
        path = Path(base) / file
        return str(path) if path.is_file() else None
    found: str | None = cached_file(
        base,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return found

"""LoRA adapters of a part (by PEFT), their bytes on the wire, and their mean.

Adapter tensors go by whole-model names without PEFT's adapter name, such as
`transformer.h.3.attn.c_attn.lora_A.weight`. On disk they are safetensors, which cannot run code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save_file
from torch import nn

from splitcom.config import LoraSettings
from splitcom.errors import CodecError, ConfigError
from splitcom.partition import Part

AdapterState = dict[str, torch.Tensor]


def add_adapter(part: Part, settings: LoraSettings, seed: int) -> None:
    """Inject LoRA into the part; A is drawn from (seed, whole-model tensor name), B is 0.

    So the adapter of a block does not depend on where the model is cut, nor on which process holds it. A follows
    the uniform law of Kaiming with a = sqrt(5), PEFT's own default: bound 1 / sqrt(fan in).
    """
    if not part.blocks():
        return
    try:
        inject_adapter_in_model(lora_config(settings), part)
    except ValueError as error:
        raise ConfigError(f"lora.targets: {', '.join(settings.targets)}: {str(error).splitlines()[0]}") from None
    _check_targets(part, settings)
    first = first_adapter(part, seed)
    for name, parameter in _adapter_parameters(part).items():
        parameter.requires_grad_(True)
        with torch.no_grad():
            parameter.copy_(first[name])


def first_adapter(part: Part, seed: int) -> AdapterState:
    """What the seed draws for the part's adapter, in float32 whatever the part computes in."""
    return {
        name: _initial(seed, name, parameter.shape) if ".lora_A." in name else torch.zeros(parameter.shape)
        for name, parameter in sorted(_adapter_parameters(part).items())
    }


def _check_targets(part: Part, settings: LoraSettings) -> None:
    """Every target must be a linear layer of the blocks, and nothing else may have got an adapter."""
    names = list(_adapter_parameters(part))
    for target in settings.targets:
        found = [name for name in names if f".{target}.lora_" in name]
        if not found or not all(name.startswith("transformer.h.") for name in found):
            raise ConfigError(f"lora.targets: {target} is no linear layer of a block; valid: c_attn, c_proj, c_fc")


def lora_config(settings: LoraSettings) -> LoraConfig:
    """The PEFT configuration; GPT-2's linear layers are Conv1D, whose weights are stored (fan in, fan out)."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        fan_in_fan_out=True,
        bias="none",
        task_type="CAUSAL_LM",
    )


def adapter_parameters(part: Part) -> list[nn.Parameter]:
    """The trainable parameters of a part in a stable order (sorted by name)."""
    named = _adapter_parameters(part)
    return [named[name] for name in sorted(named)]


def adapter_state(part: Part) -> AdapterState:
    """A copy of the adapter, on the CPU, in float32."""
    return {n: p.detach().to("cpu", torch.float32, copy=True) for n, p in sorted(_adapter_parameters(part).items())}


def load_adapter_state(part: Part, state: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the part's adapter; CodecError unless names and shapes are exactly the part's own."""
    named = _adapter_parameters(part)
    odd = sorted(set(named) ^ set(state))
    if odd:
        raise CodecError(f"adapter: tensor {odd[0]!r} is {'missing' if odd[0] in named else 'not of this part'}")
    with torch.no_grad():
        for name, parameter in named.items():
            if state[name].shape != parameter.shape:
                raise CodecError(
                    f"adapter: {name} has shape {tuple(state[name].shape)}, expected {tuple(parameter.shape)}"
                )
            parameter.copy_(state[name])


def from_bytes(data: bytes) -> AdapterState:
    """The adapter in a safetensors archive; CodecError when it is none, or holds NaN or infinity."""
    try:
        state: AdapterState = load_safetensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CodecError(f"adapter: no safetensors archive: {error}") from None
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CodecError(f"adapter: {name} holds values that are not finite numbers")
    return state


def block_of(name: str) -> int:
    """The block that an adapter tensor belongs to, by the tensor's whole-model name."""
    return int(name.split(".")[2])


def fedavg(updates: Sequence[tuple[int, AdapterState]]) -> AdapterState:
    """The mean of (examples, adapter) pairs weighted by examples (McMahan et al. 2017), summed in float64.

    Each tensor's mean is over the adapters that hold it: clients may cut the model at different blocks.
    """
    holders: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for examples, state in updates:
        for name, tensor in state.items():
            holders.setdefault(name, []).append((examples, tensor))
    return {name: _mean(held) for name, held in holders.items()}


def _mean(held: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    total = sum(examples for examples, _ in held)
    if total <= 0:
        raise ValueError("fedavg: no examples")
    return sum((tensor.double() * (examples / total) for examples, tensor in held), torch.zeros(())).float()


def export(state: AdapterState, settings: LoraSettings, base: str, directory: Path) -> None:
    """Write the adapter in PEFT's own layout: `PeftModel.from_pretrained(base, directory)` reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    config = lora_config(settings)
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(directory))
    prefixed = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(prefixed, str(directory / "adapter_model.safetensors"), metadata={"format": "pt"})


def _adapter_parameters(part: Part) -> dict[str, nn.Parameter]:
    return {n.replace(".default.", "."): p for n, p in part.named_parameters() if ".lora_" in n}


def _initial(seed: int, name: str, shape: torch.Size) -> torch.Tensor:
    key = hashlib.blake2b(f"lora {seed} {name}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))
    bound = 1.0 / math.sqrt(shape[1])
    return torch.from_numpy(generator.uniform(-bound, bound, tuple(shape)).astype(np.float32))

"""The file of a trained policy: safetensors, which cannot run code, with what it fits in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from splitcom.config import STREAMS
from splitcom.control.environment import STATE_SIZE
from splitcom.errors import ConfigError

POLICY_FILE = "policy.safetensors"
Weights = dict[str, NDArray[np.float32]]

HIDDEN = 64
# What a file must say to fit this program; whoever changes the meaning of state or action raises the version.
FITS = {
    "format": "splitcom policy",
    "version": "1",
    "state_size": str(STATE_SIZE),
    "action_size": "1",
    "hidden": str(HIDDEN),
    "streams": ",".join(STREAMS),
}
VALID = "valid: a file that `splitcom policy train` or a run with control.kind ddpg wrote"


@dataclass(frozen=True)
class Policy:
    """The weights of actor and critic, the number of transitions behind them, and the weight of bytes they assumed."""

    weights: Weights
    transitions: int
    byte_weight: float


def write(path: Path, policy: Policy) -> None:
    """Write the file anew; ConfigError where that is impossible."""
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(policy.weights, str(partial), metadata=described(policy))
    except SafetensorError as error:
        raise ConfigError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from None
    partial.replace(path)


def described(policy: Policy) -> dict[str, str]:
    """The metadata: what the file fits, and what the policy learned from."""
    return FITS | {"transitions": str(policy.transitions), "byte_weight": f"{policy.byte_weight:g}"}


def read(path: Path, key: str = "control.policy") -> Policy:
    """The policy in a file; raises ConfigError naming `key`, the file, and what is valid."""
    metadata, weights = _open(path, f"{key}: {path}")
    try:
        return Policy(weights, int(metadata["transitions"]), float(metadata["byte_weight"]))
    except (KeyError, ValueError):
        raise ConfigError(f"{key}: {path}: no number of transitions or weight of bytes in it; {VALID}") from None


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of a policy: two hidden layers and one output for actor and critic."""
    found: dict[str, tuple[int, ...]] = {}
    for part, inputs in (("actor", STATE_SIZE), ("critic", STATE_SIZE + 1)):
        for layer, (fan_in, fan_out) in zip((0, 2, 4), ((inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)), strict=True):
            found |= {f"{part}.{layer}.weight": (fan_out, fan_in), f"{part}.{layer}.bias": (fan_out,)}
    return found


def _open(path: Path, what: str) -> tuple[Mapping[str, str], Weights]:
    if not path.is_file():
        raise ConfigError(f"{what}: {'a directory' if path.is_dir() else 'no such file'}; {VALID}")
    try:
        with safe_open(str(path), framework="numpy") as archive:
            metadata = archive.metadata() or {}
            if metadata.get("format") != FITS["format"]:
                raise ConfigError(f"{what}: no policy; {VALID}")
            for name, fits in FITS.items():
                if metadata.get(name) != fits:
                    raise ConfigError(f"{what}: {name} {metadata.get(name)}; valid: {fits}")
            return metadata, {name: _tensor(archive, name, shape, what) for name, shape in shapes().items()}
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror or 'cannot be read'}; {VALID}") from None
    except SafetensorError:
        raise ConfigError(f"{what}: no safetensors file; {VALID}") from None


def _tensor(archive: Any, name: str, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    if name not in archive.keys():  # noqa: SIM118 (not iterable itself)
        raise ConfigError(f"{what}: tensor {name} is missing; {VALID}")
    entry = archive.get_slice(name)
    kind = (entry.get_dtype(), tuple(entry.get_shape()))
    if kind != ("F32", shape):
        raise ConfigError(f"{what}: tensor {name} is {kind[0]} of shape {kind[1]}; valid: F32 of shape {shape}")
    tensor: NDArray[np.float32] = archive.get_tensor(name)
    if not np.isfinite(tensor).all():
        raise ConfigError(f"{what}: tensor {name} holds values that are not finite; {VALID}")
    return tensor

"""What can be said about a base before torch is imported: most mistakes in `--model` need not wait for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splitcom.config import BaseConfig, ModelConfig
from splitcom.errors import PartitionError

VALID = "valid: a directory in Hugging Face layout or a hub name"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_base(model: BaseConfig) -> None:
    """Raise PartitionError for a base that cannot be used or a cut outside it; a hub name is left to the hub.

    An agent learns its cut from the server: its BaseConfig has none to check.
    """
    if not model.base:
        raise PartitionError(f"model.base: empty; {VALID}")
    directory = Path(model.base)
    if not directory.is_dir():
        if model.base.startswith((".", "/", "~")) or model.base.endswith("/") or model.base.count("/") > 1:
            raise PartitionError(f"model.base: {model.base} is no directory; {VALID}")
        return
    config = _config(directory / "config.json")
    if not any((directory / name).is_file() for name in WEIGHTS):
        raise PartitionError(f"model.base: {directory} has no safetensors weights; valid: one with {WEIGHTS[0]}")
    if not isinstance(model, ModelConfig):
        return
    blocks = config.get("n_layer")
    if isinstance(blocks, int):
        check_cuts(blocks, model)


def check_cuts(blocks: int, model: ModelConfig) -> None:
    """Raise PartitionError unless every client's body keeps at least one of the model's blocks."""
    highest = blocks - model.tail - 1
    if highest < 1:
        raise PartitionError(
            f"model.tail: {model.tail} leaves no body in a model of {blocks} blocks; "
            f"valid: {int(model.shape == 'u')} to {max(0, blocks - 2)}"
        )
    for key, cut in (("model.cut", model.cut), *((f"model.cuts: {k}", v) for k, v in model.unequal().items())):
        if not 1 <= cut <= highest:
            raise PartitionError(
                f"{key}: {cut} leaves no body in a model of {blocks} blocks with a tail of {model.tail}; "
                f"valid: 1 to {highest}"
            )


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PartitionError(f"model.base: {path}: {error.strerror}; {VALID}") from None
    except ValueError as error:
        raise PartitionError(f"model.base: {path}: not JSON: {error}; {VALID}") from None
    if not isinstance(config, dict):
        raise PartitionError(f"model.base: {path}: no table in it; {VALID}")
    return config

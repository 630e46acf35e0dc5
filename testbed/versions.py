"""What a run was made with: versions of the packages and of the machine beneath them."""

from __future__ import annotations

import os
import platform
from importlib import metadata

PACKAGES = (
    "splitcom",
    "torch",
    "transformers",
    "peft",
    "numpy",
    "safetensors",
    "tokenizers",
    "msgpack",
    "lz4",
    "zstandard",
    "sacrebleu",
)


def versions() -> dict[str, str | int | None]:
    """Versions by name; None for a package that is not installed."""
    found: dict[str, str | int | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found

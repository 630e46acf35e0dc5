"""The sizes of published bases that `splitcom bench size` knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A base of the GPT-2 family, the parts of it that an agent runs, and its batches."""

    blocks: int
    width: int
    heads: int
    rank: int
    cut: int = 3
    tail: int = 1
    vocabulary: int = 50257
    positions: int = 1024
    length: int = 512
    batch_size: int = 8


SIZES = {"small": Size(12, 768, 12, rank=8), "xl": Size(48, 1600, 25, rank=24)}

"""Sketches: short vectors that keep the inner products of flattened tensors, by seeded random projection.

For one sample X of shape (T, C), with a Gaussian matrix R (k, C) and random signs S (positions, k):

    sketch(X)[j] = 1 / sqrt(k) * sum over t, c of S[t, j] * X[t, c] * R[j, c]

This is a tensorised Johnson-Lindenstrauss projection (Johnson and Lindenstrauss 1984; SplitCom, arXiv 2602.10564, uses
the plain one): it never forms the (T * C, k) matrix. For X, Y of one shape the expectation of <sketch(X), sketch(Y)>
is <X, Y>, and its variance is at most 9 / k * |X|^2 * |Y|^2, since E[S S'] is the identity over positions.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from splitcom.codec import Tensor

# Signs are drawn in blocks of this many positions, one bit of a 64-bit word each.
BLOCK = 64


class Sketcher:
    """Sketches of one stream's tensors; equal arguments give the same projection on every machine."""

    def __init__(self, seed: int, stream: str, channels: int, dimensions: int) -> None:
        self._label = f"splitcom sketch {seed} {stream} {channels} {dimensions}"
        self._dimensions = dimensions
        generator = np.random.Generator(_philox(f"{self._label} projection"))
        self._projection = generator.standard_normal((dimensions, channels), dtype=np.float32)
        self._projection /= np.float32(math.sqrt(dimensions))
        self._signs = np.empty((0, dimensions), np.float32)

    def sketch(self, tensor: Tensor) -> Tensor:
        """(T, C) float32 to (dimensions,) float32; magnitudes beyond about 1e34 may give infinities."""
        with np.errstate(over="ignore", invalid="ignore"):
            signed = self._signs_up_to(len(tensor)).T @ tensor
            sketch: Tensor = np.einsum("jc,jc->j", signed, self._projection)
        return sketch

    def _signs_up_to(self, tokens: int) -> Tensor:
        """(tokens, dimensions) of -1 and 1, drawn on first need; a position's signs depend on nothing else."""
        while len(self._signs) < tokens:
            block = len(self._signs) // BLOCK
            words = _philox(f"{self._label} signs {block}").random_raw(self._dimensions)
            bits = (words[None, :] >> np.arange(BLOCK, dtype=np.uint64)[:, None]) & np.uint64(1)
            self._signs = np.concatenate([self._signs, bits.astype(np.float32) * 2 - 1])
        return self._signs[:tokens]


def _philox(label: str) -> np.random.Philox:
    """A counter-based generator keyed by text (Salmon et al. 2011), independent of machine and process."""
    key = hashlib.blake2b(label.encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(key, "little"))

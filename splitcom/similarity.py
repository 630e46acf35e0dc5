"""How alike a tensor and its reference are, as one number in [-1, 1]; of the tensors themselves or of their sketches.

Sums are taken in float64, where squares of float32 numbers neither overflow nor vanish.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Cosine similarity of two arrays of one shape.

    Two zero arrays are equal (1), a zero array is like no other (0), and infinities are like nothing at all (-1).
    """
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    if not math.isfinite(xx + yy):
        return -1.0
    if xx == 0 or yy == 0:
        return float(xx == yy)
    return max(-1.0, min(1.0, xy / math.sqrt(xx * yy)))


def relative_l2(reference: NDArray[np.floating], current: NDArray[np.floating]) -> float:
    """1 - |current - reference| / |reference|, and -1 where that is less: 1 is equal, 0 is off by the whole norm.

    Unlike the cosine it sees a change of norm. Nothing but a zero array is like a zero reference, and infinities are
    like nothing at all (-1).
    """
    x, y = reference.astype(np.float64).ravel(), current.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        size, distance = float(np.sqrt(x @ x)), float(np.sqrt((y - x) @ (y - x)))
    if not math.isfinite(size + distance):
        return -1.0
    if size == 0:
        return 1.0 if distance == 0 else -1.0
    return max(-1.0, 1 - distance / size)

"""Gates: whether a sample whose reference both ends hold is sent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from splitcom.codec import Tensor
from splitcom.similarity import cosine, relative_l2


@dataclass(frozen=True)
class Gate:
    """Asked only for a sample that has an undisputed reference of the same shape.

    `remembers`: whether references are kept at all; a gate that never skips needs none, at either end.
    `similarity`: of what the sender kept of the reference to the same of the tensor, in [-1, 1]; a sample is skipped
    from the threshold up. None: the sender keeps nothing to compare with, and whatever was sent before is skipped.
    """

    remembers: bool
    similarity: Callable[[Tensor, Tensor], float] | None = None


GATES: dict[str, Gate] = {
    # Every tensor is sent whole.
    "none": Gate(remembers=False),
    # SplitCom (arXiv 2602.10564). Ignores a change of norm and bounds no error: it ranks samples by how much they turn.
    "cosine": Gate(remembers=True, similarity=cosine),
    # Bounds the error: at threshold s the receiver's tensor is off by at most 1 - s of its norm, but for the sketch's.
    "relative_l2": Gate(remembers=True, similarity=relative_l2),
    # Right for a frozen head, whose output never changes.
    "once": Gate(remembers=True),
}

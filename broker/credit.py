"""Pacing of one message: how far its sender may go beyond what the receiver has confirmed.

PUBACK only tells that the broker has a chunk. Towards a slow agent the broker's queue would then hold the message, so
long messages on `down` carry a stride: after every `stride` chunks the agent sends a Credit, and the server never is
more than `window` chunks beyond the last one.
"""

from __future__ import annotations


def stride(channel: str, chunks: int, window: int) -> int:
    """After how many chunks the receiver of a message on `channel` sends a Credit; 0 where it is not paced."""
    return max(1, window // 2) if channel == "down" and chunks > window else 0


def due(credit: int, received: int, count: int) -> bool:
    """Whether the receiver answers the `received`th of `count` chunks with a Credit: never the last."""
    return credit > 0 and received < count and received > 0 and received % credit == 0

"""Pacing: how far a sender may go beyond what its receiver has confirmed, of one message and of all on one topic.

PUBACK only tells that the broker has a chunk. Towards a slow agent the broker's queue would then hold the message, so
long messages on `down` carry a stride: after every `stride` chunks the agent sends a Credit, and the server never is
more than `window` chunks beyond the last one. Towards the server all agents share the broker's queue, so that the
server tells each its share of it.
"""

from __future__ import annotations

CONFIRM_BYTES = 1 << 20  # after how many bytes the receiver says what has come
UNCONFIRMED_BYTES = 4 << 20  # how many may go out without such a word, where the server has not said otherwise
SHARED_BYTES = 24 << 20  # for all agents together; half of what the embedded broker holds for one client
LEAST_SHARE = 1 << 16
LEAST_BYTES = 1 << 12  # what a chunk weighs at least, in the count of what is not confirmed


def weight(size: int) -> int:
    """What a chunk of `size` bytes counts for, at either end."""
    return max(size, LEAST_BYTES)


def share(agents: int) -> int:
    """How many bytes each of so many agents may have unconfirmed; halved rather than divided, so that it rarely
    changes."""
    size = UNCONFIRMED_BYTES
    while size * agents > SHARED_BYTES and size > LEAST_SHARE:
        size //= 2
    return size


def word_after(share: int) -> int:
    """After how many bytes the receiver says what has come, so that a sender with this share never stands still."""
    return min(CONFIRM_BYTES, share // 4)


def stride(channel: str, chunks: int, window: int) -> int:
    """After how many chunks the receiver of a message on `channel` sends a Credit; 0 where it is not paced."""
    return max(1, window // 2) if channel == "down" and chunks > window else 0


def due(credit: int, received: int, count: int) -> bool:
    """Whether the receiver answers the `received`th of `count` chunks with a Credit: never the last."""
    return credit > 0 and received < count and received > 0 and received % credit == 0

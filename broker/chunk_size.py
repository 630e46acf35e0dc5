"""How a message is cut, and how many of its chunks may be under way, from the rate of the way it takes.

What is under way cannot be overtaken. So a window of chunks takes no longer than `CONTROL_S`, which is how long
control waits behind bulk; where even the smallest usual chunk takes longer, the window has to fit `KEEPALIVE_SHARE` of
the keepalive, or else a slow link would end its own connection.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.wire import MAX_CHUNKS, USUAL_BYTES

LARGER = (4 * USUAL_BYTES, 2 * USUAL_BYTES)
SMALLEST = 1 << 12
CONTROL_S = 0.4
KEEPALIVE_SHARE = 0.25


class Cut(NamedTuple):
    """Bytes of a chunk, and chunks under way at once."""

    chunk_bytes: int
    window: int


def choose(length: int, rate: float, lately: float, window: int, keepalive_s: float, largest: int) -> Cut:
    """The cut of a body of `length` bytes; `rate` and `lately` in bytes per second, 0 where none is known.

    No chunk is above `largest` bytes, and a body is never cut into more chunks than an envelope can count.
    """
    size = next((size for size in LARGER if size * window <= rate * CONTROL_S), USUAL_BYTES)
    size = min(size, largest)
    fitting = int(lately * keepalive_s * KEEPALIVE_SHARE)
    if lately and fitting < size:
        size = max(SMALLEST, fitting // SMALLEST * SMALLEST)
    return Cut(max(size, -(-length // MAX_CHUNKS)), places(size, lately, window, keepalive_s))


def places(chunk_bytes: int, lately: float, window: int, keepalive_s: float) -> int:
    """How many chunks of this size may be under way now, at most `window`."""
    if not lately:
        return window
    return max(1, min(window, int(lately * keepalive_s * KEEPALIVE_SHARE) // chunk_bytes))

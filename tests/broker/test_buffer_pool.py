"""Receive buffers: used again when nobody looks at them, and never before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.buffer_pool import LEAST_BYTES, POOL_BYTES, BufferPool


def test_a_buffer_that_nobody_sees_any_more_is_given_again() -> None:
    pool = BufferPool()
    first = pool.take(300_000)
    first[:3] = b"abc"
    payload = first[2:]
    del first
    other = pool.take(300_000)
    assert bytes(payload[:1]) == b"c"
    assert other.obj is not payload.obj
    known = id(payload.obj)
    del payload
    assert id(pool.take(300_001).obj) == known, "it was not used again"


def test_sizes_that_are_not_worth_it_get_memory_of_their_own() -> None:
    pool = BufferPool()
    for size in (0, LEAST_BYTES - 1, pool.largest + 1):
        taken = pool.take(size)
        assert isinstance(taken.obj, bytearray)
        assert len(taken) == len(taken.obj) == size


@given(st.lists(st.tuples(st.integers(LEAST_BYTES, POOL_BYTES // 2), st.booleans()), max_size=40))
def test_two_users_never_share_memory_and_the_pool_stays_within_its_bound(steps: list[tuple[int, bool]]) -> None:
    pool = BufferPool()
    held: list[memoryview] = []
    for size, keep in steps:
        view = pool.take(size)
        assert len(view) == size
        assert all(view.obj is not other.obj for other in held)
        if keep:
            held.append(view)
        del view
        assert pool.remembered_bytes <= POOL_BYTES

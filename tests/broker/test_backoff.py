"""When to connect again: a law of times, without a clock."""

from __future__ import annotations

from broker.backoff import FIRST_S, LASTING_S, LONGEST_S, Backoff


def test_pauses_grow_to_the_longest_and_begin_anew_after_a_connection_that_lasted() -> None:
    backoff = Backoff(60.0)
    backoff.lost(0.0, 1.0, hung_up=True)
    pauses = [backoff.pause_s() for _ in range(10)]
    assert FIRST_S / 2 <= pauses[0] <= FIRST_S
    assert LONGEST_S / 2 <= pauses[-1] <= LONGEST_S
    backoff.lost(30.0, LASTING_S, hung_up=True)
    assert backoff.pause_s() <= FIRST_S
    assert not backoff.over(89.0)
    assert backoff.over(90.0)


def test_connections_that_the_other_end_soon_closes_do_not_end_a_row() -> None:
    backoff = Backoff(60.0)
    for now in range(0, 60, 2):
        backoff.lost(float(now), 1.0, hung_up=True)
        assert backoff.rival == (now > 0)
        assert not backoff.over(now)
    assert backoff.over(60.0)


def test_connections_that_take_messages_begin_a_row_of_their_own_however_short() -> None:
    backoff = Backoff(60.0)
    for now in range(0, 120, 2):
        backoff.lost(float(now), 1.0, hung_up=True, of_use=True)
        assert not backoff.rival
        assert not backoff.over(now)


def test_connections_that_break_otherwise_begin_a_row_of_their_own() -> None:
    backoff = Backoff(60.0)
    for now in range(0, 120, 2):
        backoff.lost(float(now), 1.0, hung_up=False)
        assert not backoff.rival
        assert not backoff.over(now)

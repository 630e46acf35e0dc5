"""What counts as progress: a law of numbers, without a clock."""

from __future__ import annotations

from broker.progress import Progress


def test_bytes_count_where_there_are_more_than_before_and_acknowledgements_always() -> None:
    progress = Progress(1.0, 0, 0)
    assert progress.look(2.0, 0.0, 0, 500) == 2.0
    assert progress.look(3.0, 0.0, 0, 500) == 2.0
    assert progress.look(4.0, 0.0, 0, 100) == 2.0  # a new connection
    assert progress.look(5.0, 0.0, 0, 500) == 2.0  # on which the same went out again
    assert progress.look(6.0, 0.0, 0, 501) == 6.0
    assert progress.look(7.0, 6.5, 1, 200) == 6.5  # of one that is acknowledged no bytes are left to count
    assert progress.look(8.0, 6.5, 1, 201) == 8.0


def test_a_message_that_is_withdrawn_is_no_progress_of_others() -> None:
    progress = Progress(1.0, 3, 900)
    assert progress.look(2.0, 0.0, 4, 600) == 1.0
    assert progress.look(3.0, 0.0, 4, 600) == 1.0
    assert progress.look(4.0, 0.0, 4, 601) == 4.0

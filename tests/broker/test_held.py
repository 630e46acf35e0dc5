"""What waits unacknowledged is bounded."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from broker.held import HELD, HELD_BYTES, Held


@pytest.mark.parametrize(("size", "places"), [(1, HELD), (HELD_BYTES // 4, 4), (HELD_BYTES // 3 + 1, 3)])
def test_what_finds_no_place_is_missed_until_all_that_waited_is_acknowledged(size: int, places: int) -> None:
    emptied, acknowledge = Mock(), Mock()
    held = Held(emptied)
    taken = [held.take(size, acknowledge) for _ in range(places)]
    assert not held.missed
    assert held.take(1, acknowledge) is None
    assert held.missed
    for number, each in enumerate(taken):
        assert (acknowledge.call_count, emptied.call_count) == (number, 0)
        assert each is not None
        each()
    emptied.assert_called_once_with()


def test_nobody_is_told_where_everything_had_a_place() -> None:
    emptied = Mock()
    held = Held(emptied)
    for _ in range(3 * HELD):
        acknowledge = held.take(1, Mock())
        assert acknowledge is not None
        acknowledge()
    emptied.assert_not_called()

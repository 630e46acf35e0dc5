"""Channels over links of a few megabits: what is urgent overtakes, and what is long never times out."""

from __future__ import annotations

import pytest

from tests.broker.pairs import crossed, over
from tests.testbed.links.needs import needs


@pytest.mark.slow
@needs("netns")
def test_control_passes_six_megabytes_each_way_within_half_a_second() -> None:
    reports = over("up=5mbit down=5mbit", 6_000_000, 6_000_000)
    assert crossed(reports)
    for end in ("server", "agent"):
        assert len(reports[end]["delays"]) > 50
        assert max(reports[end]["delays"]) < 0.5, end
        assert reports[end]["seconds"] < 13


@pytest.mark.slow
@needs("netns")
def test_a_long_message_over_one_megabit_outlives_any_deadline_that_a_chunk_can_meet() -> None:
    reports = over("up=1mbit down=1mbit", 2_000_000, 2_000_000, "timeout_s=2", "keepalive_s=4")
    assert crossed(reports)
    assert reports["server"]["seconds"] > 15

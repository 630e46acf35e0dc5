"""The table of how exact links are."""

from __future__ import annotations

from testbed.bench.links_rows import render, row


def test_a_row_holds_the_worst_link_by_its_median_against_the_bound() -> None:
    made = row("tun", "completion", "cubic", {"a up": [0.1, 9.0, 0.2], "b up": [-0.5, -0.4, -0.6]}, bound=1.0)
    assert (made.median, made.worst, made.largest) == (-0.15, -0.5, 9.0)
    assert made.clients == 2
    assert made.ok


def test_a_link_that_is_off_in_the_median_is_over_the_bound() -> None:
    made = row("tun", "completion", "cubic", {"a up": [0.1], "a down": [-1.2]}, bound=1.0)
    assert not made.ok
    assert "over 1 %" in made.text()


def test_a_row_without_a_bound_is_told_only() -> None:
    assert row("tun", "goodput", "cubic", {"a up": [150.0]}).ok


def test_the_table_counts_what_is_over_and_names_what_was_left_out() -> None:
    rows = [
        row("netns", "completion", "cubic", {"a up": [3.0]}, bound=2.0),
        row("netns", "delay", "cubic", {"a up": [0.1]}, unit="ms", bound=0.3, note="quick"),
    ]
    text = render({"rows": [each.table() for each in rows], "left_out": {"bbr": "congestion: 'bbr': not here"}})
    assert "| `netns` | cubic | 1 | completion | +3.00 % | +3.00 | +3.00 | 2 % |  |" in text
    assert "+0.10 ms | +0.10 | +0.10 | 0.3 ms | quick |" in text
    assert "1 of 2 rows are over their bound" in text
    assert "left out: congestion: 'bbr': not here" in text

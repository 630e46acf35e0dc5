"""The commands that shape one way of a link, without carrying any of them out."""

from __future__ import annotations

import pytest

from testbed.links import operations as op
from testbed.links.profile import parse
from testbed.links.shaper import (
    BURST_BYTES_MIN,
    FLOOR_BPS,
    Shaper,
    burst,
    kernel_rate,
    netem_options,
    start_bps,
)

UP, DOWN = Shaper("hub", "u0", 0x10, "up"), Shaper("", "eth0", 0x2A, "down")


def texts(operations: list[op.Operation]) -> list[str]:
    return [operation.text for operation in operations]


def test_a_rate_is_a_class_and_a_queue() -> None:
    assert texts(UP.build(parse("up=8mbit down=1mbit"))) == [
        "tc -n hub class add dev u0 parent 1: classid 1:10 htb rate 8000000bit ceil 8000000bit "
        "burst 1600b cburst 1600b quantum 1514",
        "tc -n hub qdisc add dev u0 parent 1:10 handle 10: bfifo limit 100000b",
    ]
    assert texts(DOWN.build(parse("up=8mbit down=80mbit queue=64kb"))) == [
        "tc class add dev eth0 parent 1: classid 1:2a htb rate 80000000bit ceil 80000000bit burst 10000b cburst 10000b "
        "quantum 1514",
        "tc qdisc add dev eth0 parent 1:2a handle 2a: bfifo limit 65536b",
    ]


def test_a_change_makes_nothing_anew() -> None:
    changed = UP.change(parse("up=8mbit"), parse("up=2mbit"))
    assert [" ".join(text.split()[3:5]) for text in texts(changed)] == ["class change", "qdisc change"]
    assert "rate 2000000bit" in changed[0].text
    assert changed[1].text.endswith("bfifo limit 30000b")
    assert all(operation.apply for operation in changed)


def test_netem_takes_the_place_of_a_plain_queue_under_another_handle() -> None:
    plain, delayed, more = parse("up=8mbit"), parse("up=8mbit delay=30ms"), parse("up=8mbit delay=40ms")
    assert UP.change(plain, delayed)[1].text == (
        "tc -n hub qdisc replace dev u0 parent 1:10 handle 4010: netem limit 1000 delay 30000us"
    )
    assert UP.change(delayed, more)[1].text == (
        "tc -n hub qdisc change dev u0 parent 1:10 handle 4010: netem limit 1000 delay 40000us"
    )
    assert UP.change(delayed, plain)[1].text == (
        "tc -n hub qdisc replace dev u0 parent 1:10 handle 10: bfifo limit 100000b"
    )


def test_netem_is_left_to_the_program_tc() -> None:
    assert UP.build(parse("up=8mbit loss=1%"))[1].apply is None


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("up=8mbit", None),
        ("up=8mbit down.delay=30ms", None),
        ("delay=30ms", "limit 1000 delay 30000us"),
        ("up=8mbit delay=1.5ms", "limit 1000 delay 1500us"),
        ("up=8mbit delay=500us jitter=100us", "limit 1000 delay 500us 100us distribution normal rate 8000000bit"),
        ("up=8mbit delay=30ms jitter=5ms", "limit 1000 delay 30000us 5000us distribution normal rate 8000000bit"),
        ("delay=30ms jitter=5ms", "limit 1000 delay 30000us 5000us distribution normal"),
        ("jitter=5ms", "limit 1000 delay 0us 5000us distribution normal"),
        ("loss=1%", "limit 1000 loss 1%"),
        ("loss=0.25%", "limit 1000 loss 0.25%"),
        ("loss=gemodel:0.25%:25%", "limit 1000 loss gemodel 0.25% 25% 100% 0%"),
        ("loss=gemodel:1%:20%:80%:0.1%", "limit 1000 loss gemodel 1% 20% 80% 0.1%"),
        (
            "up=8mbit delay=30ms jitter=5ms loss=gemodel:1%:20%",
            "limit 1000 delay 30000us 5000us distribution normal loss gemodel 1% 20% 100% 0% rate 8000000bit",
        ),
    ],
)
def test_the_options_of_netem(text: str, options: str | None) -> None:
    assert netem_options(parse(text), "up") == options


def test_netem_has_room_for_what_is_under_way_and_what_waits() -> None:
    # 100 Mbit/s for 50 ms + 10 ms + a queue of 100 ms is 2 MB: twice that in packets of 1500 bytes.
    options = netem_options(parse("up=100mbit delay=50ms jitter=10ms"), "up")
    assert options is not None
    assert options.startswith("limit 2667 ")


def test_bursts_are_a_millisecond_and_a_packet_at_least() -> None:
    assert burst(12_500_000) == 12_500
    assert burst(125_000) == BURST_BYTES_MIN


def test_rates_are_whole_bytes_within_what_the_kernel_takes() -> None:
    assert kernel_rate(1_000_001) == 125_000
    assert kernel_rate(1) == 1
    assert kernel_rate(float("inf")) == kernel_rate(1e11) == op.LINE_RATE


def test_a_rate_that_varies_begins_with_its_first_step_and_not_below_the_floor() -> None:
    assert start_bps(parse("up=5mbit+1mbit@30s"), "up") == pytest.approx(5e6)
    assert start_bps(parse("up=0+1mbit@30s"), "up") == FLOOR_BPS
    assert start_bps(parse("up=5mbit"), "up") == 5e6


def test_the_record_says_what_is_set() -> None:
    assert UP.facts(parse("up=8mbit")) == {"rate_bps": 8_000_000, "burst_bytes": 1600, "queue_bytes": 100_000}

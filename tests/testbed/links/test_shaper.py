"""The commands that shape one way of a link, without carrying any of them out."""

from __future__ import annotations

import pytest

from testbed.links import operations as op
from testbed.links.profile import parse
from testbed.links.rates import FRAME_BYTES
from testbed.links.shaper import (
    BURST_BYTES_MIN,
    FLOOR_BPS,
    Shaper,
    SharedShaper,
    burst,
    kernel_rate,
    netem_options,
    netem_packets,
    start_bps,
)

ALONE, SHARED = Shaper("hub", "u0", 0x10, "up"), SharedShaper("", "eth0", 0x2A, "down")
ORDER = "rate 32000000000bit"  # the fastest that the kernel takes: it only keeps packets in order


def texts(operations: list[op.Operation]) -> list[str]:
    return [operation.text for operation in operations]


def test_a_rate_is_a_class_and_a_queue() -> None:
    assert texts(ALONE.build(parse("up=8mbit down=1mbit"))) == [
        "tc -n hub qdisc add dev u0 root handle 1: htb default 0x10",
        "tc -n hub class add dev u0 parent 1: classid 1:10 htb rate 8000000bit ceil 8000000bit "
        "burst 1600b cburst 1600b quantum 1514",
        "tc -n hub qdisc add dev u0 parent 1:10 handle 10: bfifo limit 100000b",
    ]
    assert texts(SHARED.build(parse("up=8mbit down=80mbit queue=64kb"))) == [
        "tc class add dev eth0 parent 1: classid 1:2a htb rate 80000000bit ceil 80000000bit burst 10000b cburst 10000b "
        "quantum 1514",
        "tc qdisc add dev eth0 parent 1:2a handle 2a: bfifo limit 65536b",
    ]


@pytest.mark.parametrize("shaper", [ALONE, SharedShaper("hub", "u0", 0x10, "up")])
def test_a_change_makes_nothing_anew(shaper: Shaper) -> None:
    changed = shaper.change(parse("up=8mbit"), parse("up=2mbit"))
    assert [" ".join(text.split()[3:5]) for text in texts(changed)] == ["class change", "qdisc change"]
    assert "rate 2000000bit" in changed[0].text
    assert changed[1].text.endswith("bfifo limit 30000b")
    assert all(operation.apply for operation in changed)


def test_on_a_device_of_its_own_a_link_is_delayed_before_it_waits_in_the_queue() -> None:
    made = texts(ALONE.build(parse("up=8mbit delay=30ms queue=5000b")))
    assert made[:2] == [
        "tc -n hub qdisc add dev u0 root handle 4010: netem limit 100000 delay 30000us",
        "tc -n hub qdisc add dev u0 parent 4010:1 handle 1: htb default 0x10",
    ]
    assert made[-1] == "tc -n hub qdisc add dev u0 parent 1:10 handle 10: bfifo limit 5000b"


def test_on_a_device_of_its_own_another_delay_leaves_what_waits() -> None:
    changed = texts(ALONE.change(parse("up=8mbit delay=30ms"), parse("up=4mbit delay=40ms")))
    assert changed[0] == "tc -n hub qdisc change dev u0 root handle 4010: netem limit 100000 delay 40000us"
    assert [" ".join(text.split()[3:5]) for text in changed[1:]] == ["class change", "qdisc change"]


def test_on_a_device_of_its_own_a_first_delay_makes_all_anew_and_so_does_the_end_of_it() -> None:
    plain, delayed = parse("up=8mbit"), parse("up=8mbit delay=30ms")
    for old, new in ((plain, delayed), (delayed, plain)):
        gone, *made = texts(ALONE.change(old, new))
        assert gone == "tc -n hub qdisc del dev u0 root"
        assert made == texts(ALONE.build(new))


def test_beside_other_links_netem_takes_the_place_of_the_queue_under_another_handle() -> None:
    plain, delayed, more = parse("down=8mbit"), parse("down=8mbit delay=30ms"), parse("down=8mbit delay=40ms")
    assert SHARED.change(plain, delayed)[1].text == (
        "tc qdisc replace dev eth0 parent 1:2a handle 402a: netem limit 86 delay 30000us"
    )
    assert SHARED.change(delayed, more)[1].text == (
        "tc qdisc change dev eth0 parent 1:2a handle 402a: netem limit 93 delay 40000us"
    )
    assert SHARED.change(delayed, plain)[1].text == (
        "tc qdisc replace dev eth0 parent 1:2a handle 2a: bfifo limit 100000b"
    )


def test_netem_is_left_to_the_program_tc() -> None:
    made = [*ALONE.build(parse("up=8mbit loss=1%")), *SHARED.build(parse("down=8mbit loss=1%"))]
    assert [operation.apply for operation in made if " netem " in operation.text] == [None, None]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("up=8mbit", None),
        ("up=8mbit down.delay=30ms", None),
        ("delay=30ms", "limit 9 delay 30000us"),
        ("up=8mbit delay=1.5ms", "limit 9 delay 1500us"),
        ("up=8mbit delay=500us jitter=100us", f"limit 9 delay 500us 100us distribution normal {ORDER}"),
        ("jitter=5ms", f"limit 9 delay 0us 5000us distribution normal {ORDER}"),
        ("loss=1%", "limit 9 loss 1%"),
        ("loss=0.25%", "limit 9 loss 0.25%"),
        ("loss=gemodel:0.25%:25%", "limit 9 loss gemodel 0.25% 25% 100% 0%"),
        ("loss=gemodel:1%:20%:80%:0.1%", "limit 9 loss gemodel 1% 20% 80% 0.1%"),
        (
            "up=8mbit delay=30ms jitter=5ms loss=gemodel:1%:20%",
            f"limit 9 delay 30000us 5000us distribution normal loss gemodel 1% 20% 100% 0% {ORDER}",
        ),
    ],
)
def test_the_options_of_netem(text: str, options: str | None) -> None:
    assert netem_options(parse(text), "up", 9) == options


def test_a_rate_that_varies_leaves_netem_at_no_rate_of_its_steps() -> None:
    options = netem_options(parse("up=8mbit+100kbit@1s jitter=5ms"), "up", 9)
    assert options is not None
    assert options.endswith(ORDER)


@pytest.mark.parametrize(
    ("text", "held_bytes"),
    [
        ("up=8mbit delay=30ms queue=100ms", 100_000 + 30_000),
        ("up=8mbit delay=30ms queue=5000b", 5_000 + 30_000),
        ("up=8mbit delay=30ms jitter=10ms queue=5000b", 5_000 + 60_000),
        ("up=8mbit loss=1% queue=1mb", 1 << 20),
    ],
)
def test_netem_in_the_place_of_a_queue_holds_as_many_full_packets_as_queue_and_delay_do(
    text: str, held_bytes: int
) -> None:
    packets = netem_packets(parse(text), "up")
    assert (packets - 1) * FRAME_BYTES < held_bytes <= packets * FRAME_BYTES


def test_limits_fit_what_the_kernel_takes() -> None:
    endless = parse("up=8mbit delay=3600s queue=9000000gb")
    assert netem_packets(parse("delay=3600s"), "up") < 1 << 32
    assert ALONE.facts(endless)["queue_bytes"] < 1 << 32


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
    assert ALONE.facts(parse("up=8mbit")) == {"rate_bps": 8_000_000, "burst_bytes": 1600, "queue_bytes": 100_000}
    assert ALONE.facts(parse("up=8mbit delay=30ms"))["netem"] == "limit 100000 delay 30000us"
    shared = SHARED.facts(parse("down=8mbit delay=30ms"))
    assert (shared["netem"], shared["netem_packets"]) == ("limit 86 delay 30000us", 86)

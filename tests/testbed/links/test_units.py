"""Units are read as tc reads them, what cannot be read is named by its key, and the texts read back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import SettingsError
from testbed.links import units

Parser = Callable[[str, str], float]

K, KI = 10**3, 2**10
BITS = {
    "bit": 1,
    "kbit": K,
    "mbit": K**2,
    "gbit": K**3,
    "tbit": K**4,
    "kibit": KI,
    "mibit": KI**2,
    "gibit": KI**3,
    "tibit": KI**4,
}
RATES = BITS | {unit.replace("bit", "bps"): 8 * bits for unit, bits in BITS.items()}
TIMES = {"s": 1, "sec": 1, "secs": 1, "ms": 1e-3, "msec": 1e-3, "msecs": 1e-3, "us": 1e-6, "usec": 1e-6, "usecs": 1e-6}
SIZES = {"": 1, "b": 1, "k": KI, "kb": KI, "m": KI**2, "mb": KI**2, "g": KI**3, "gb": KI**3}

PARSERS: dict[str, Parser] = {"rate": units.rate, "time": units.time, "size": units.size, "share": units.share}
RANGES = {"rate": (1, 1e11), "time": (0, 3600), "size": (1, float("inf")), "share": (0, 1)}


def rounded(value: float) -> object:
    """Equal to a value that went through a text of 12 digits."""
    return pytest.approx(value, rel=1e-11, abs=1e-15)


@pytest.mark.parametrize(("unit", "bits"), RATES.items())
def test_a_rate_has_the_units_of_tc(unit: str, bits: int) -> None:
    number = 1 if bits < 1e11 else 0.01
    assert units.rate("up", f"{number}{unit}") == rounded(number * bits)


@pytest.mark.parametrize(("unit", "seconds"), TIMES.items())
def test_a_time_has_the_units_of_tc(unit: str, seconds: float) -> None:
    assert units.time("delay", f"30{unit}") == rounded(30 * seconds)


@pytest.mark.parametrize(("unit", "count"), SIZES.items())
def test_a_size_has_the_units_of_tc_and_counts_1024_to_the_kilobyte(unit: str, count: int) -> None:
    assert units.size("queue", f"3{unit}") == 3 * count


def test_a_rate_counts_1000_to_the_kilobit_and_bps_are_bytes() -> None:
    assert units.rate("up", "64kbit") == 64_000
    assert units.rate("up", "64kbps") == 512_000
    assert units.rate("up", "64kibit") == 65_536


def test_a_bare_rate_is_in_bit_per_second_and_a_bare_size_in_bytes() -> None:
    assert units.rate("up", "9600") == 9600
    assert units.size("queue", "30000") == 30_000


@pytest.mark.parametrize(
    "text", ["1.5mbit", "1.5MBit", "1.5 mbit", " 1.5mbit ", "1500kbit", "1.5e6", "1.5e6bit", "15e-1mbit", "0.0015gbit"]
)
def test_a_number_is_written_in_many_ways(text: str) -> None:
    assert units.rate("up", text) == rounded(1.5e6)


def test_a_number_may_begin_with_the_point() -> None:
    assert units.rate("up", ".5mbit") == 5e5
    assert units.time("delay", ".5s") == 0.5
    assert units.share("loss", ".5%") == 0.005


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        ("rate", "1bit", 1),
        ("rate", "100gbit", 1e11),
        ("time", "0s", 0),
        ("time", "0us", 0),
        ("time", "3600s", 3600),
        ("size", "1b", 1),
        ("share", "0%", 0),
        ("share", "100%", 1),
        ("share", "0.25%", 0.0025),
    ],
)
def test_the_ends_of_a_range_are_in_it(parser: str, text: str, value: float) -> None:
    assert PARSERS[parser]("k", text) == value


@pytest.mark.parametrize(
    ("parser", "text", "said"),
    [
        ("rate", "0", "is out of range; valid: 1bit to 100gbit"),
        ("rate", "0mbit", "is out of range; valid: 1bit to 100gbit"),
        ("rate", "0.5bit", "is out of range; valid: 1bit to 100gbit"),
        ("rate", "101gbit", "is out of range; valid: 1bit to 100gbit"),
        ("rate", "1e400", "is out of range; valid: 1bit to 100gbit"),
        ("time", "3601s", "is out of range; valid: 0s to 3600s"),
        ("time", "1e400s", "is out of range; valid: 0s to 3600s"),
        ("size", "0", "is out of range; valid: 1b or more"),
        ("size", "0kb", "is out of range; valid: 1b or more"),
        ("size", "0.9b", "is out of range; valid: 1b or more"),
        ("share", "100.1%", "is out of range; valid: 0% to 100%"),
        ("share", "1e400%", "is out of range; valid: 0% to 100%"),
    ],
)
def test_what_is_out_of_range_is_answered_with_the_range(parser: str, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PARSERS[parser]("up.key", text)
    assert str(caught.value) == f"up.key: {text!r} {said}"


def test_a_size_beyond_every_number_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^up\.queue: '1e400b'.*; valid: "):
        units.size("up.queue", "1e400b")


@pytest.mark.parametrize(
    "text", ["", " ", "-1{}", "+1{}", "1{}x", "x", "nan{}", "inf{}", "1,5{}", "1..5{}", "1_0{}", "0x1{}"]
)
@pytest.mark.parametrize(
    ("parser", "unit", "valid"),
    [
        ("rate", "mbit", "a rate such as 5mbit, 64kbit or 1.5mbps (bytes)"),
        ("time", "ms", "a time with its unit, such as 30ms, 500us or 2s"),
        ("size", "kb", "a size such as 64kb or 30000b"),
        ("share", "%", "a share such as 1% or 0.25%"),
    ],
)
def test_what_is_no_value_is_answered_with_what_is(parser: str, unit: str, valid: str, text: str) -> None:
    text = text.format(unit)
    with pytest.raises(SettingsError) as caught:
        PARSERS[parser]("up.key", text)
    assert str(caught.value) == f"up.key: {text!r}; valid: {valid}"


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("rate", "5mbits"),
        ("rate", "5ms"),
        ("rate", "5%"),
        ("rate", "5mb"),
        ("time", "30"),
        ("time", "0"),
        ("time", "30m"),
        ("time", "30min"),
        ("time", "30%"),
        ("size", "5mbps"),
        ("size", "5s"),
        ("share", "1"),
        ("share", "0"),
        ("share", "0.01"),
        ("share", "1%%"),
        ("share", "1ms"),
    ],
)
def test_another_unit_and_a_bare_time_or_share_are_refused(parser: str, text: str) -> None:
    with pytest.raises(SettingsError, match=r"^down\.key: .*; valid: a ") as caught:
        PARSERS[parser]("down.key", text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("parser", PARSERS)
@settings(deadline=None, max_examples=60)
@given(text=st.text("0123456789.e-+ kmgtibps%uc", max_size=8) | st.text("1٣²½K%sMß\0\n", max_size=4))
def test_any_text_is_a_value_in_range_or_is_refused_by_its_key(parser: str, text: str) -> None:
    least, most = RANGES[parser]
    try:
        assert least <= PARSERS[parser]("up.key", text) <= most
    except SettingsError as error:
        assert str(error).startswith(f"up.key: {text!r}")
        assert "; valid: " in str(error)


@pytest.mark.parametrize(("text", "is_time"), [("100ms", True), (" 2 S", True), ("30000b", False), ("30000", False)])
def test_a_time_is_told_from_a_size(text: str, is_time: bool) -> None:
    assert units.is_time(text) is is_time


@pytest.mark.parametrize("text", ["", "ms", "-1ms", "1m", "1%"])
def test_what_is_neither_is_no_time(text: str) -> None:
    assert not units.is_time(text)


@given(st.floats(1, 1e11))
def test_the_text_of_a_rate_reads_back(bps: float) -> None:
    assert units.rate("up", units.rate_text(bps)) == rounded(bps)


@given(st.floats(0, 3600))
def test_the_text_of_a_time_reads_back(seconds: float) -> None:
    assert units.time("delay", units.time_text(seconds)) == rounded(seconds)


@given(st.integers(1, 2**50))
def test_the_text_of_a_size_reads_back(count: int) -> None:
    assert units.size("queue", units.size_text(count)) == count


@given(st.floats(0, 1))
def test_the_text_of_a_share_reads_back(share: float) -> None:
    assert units.share("loss", units.share_text(share)) == rounded(share)


@given(st.integers(1, 999), st.sampled_from(["bit", "kbit", "mbit"]))
def test_a_rate_is_written_as_people_write_it(number: int, unit: str) -> None:
    assert units.rate_text(units.rate("up", f"{number}{unit}")) == f"{number}{unit}"


@given(st.integers(1, 999), st.sampled_from(["us", "ms", "s"]))
def test_a_time_is_written_as_people_write_it(number: int, unit: str) -> None:
    assert units.time_text(units.time("delay", f"{number}{unit}")) == f"{number}{unit}"


@given(st.integers(0, 10_000).map(lambda hundredths: f"{hundredths / 100:g}%"))
def test_a_share_is_written_as_people_write_it(text: str) -> None:
    assert units.share_text(units.share("loss", text)) == text


def test_a_text_has_the_largest_unit_that_leaves_1_or_more() -> None:
    assert [units.rate_text(bps) for bps in (999, 1000, 1.5e6, 1e9, 1e11)] == [
        "999bit",
        "1kbit",
        "1.5mbit",
        "1gbit",
        "100gbit",
    ]
    assert [units.time_text(seconds) for seconds in (0, 0.0005, 0.0175, 1.5)] == ["0s", "500us", "17.5ms", "1.5s"]
    assert (units.size_text(30_000), units.share_text(0.0025)) == ("30000b", "0.25%")

"""Link profiles: words, presets and files make them, they read back, and mistakes are named by their keys."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import SettingsError
from testbed.links import profile, units
from testbed.links.profile import KEYS, QUEUE_BYTES_MIN, UNSHAPED, Direction, LinkProfile

PRESETS = profile.presets()
RATES = st.integers(1, 10**11).map(units.rate_text)
TIMES = st.integers(0, 10**6).map(lambda us: units.time_text(us / 1e6))
SHARES = st.integers(0, 10_000).map(lambda hundredths: f"{hundredths / 100:g}%")


@st.composite
def steps(draw: st.DrawFn) -> str:
    times = sorted(draw(st.sets(st.integers(1, 3_600_000), min_size=1, max_size=3)))
    return "+".join([draw(RATES), *(f"{draw(st.just('0') | RATES)}@{ms}ms" for ms in times)])


DIRECTIONS = st.builds(
    Direction,
    st.just("unlimited") | RATES | steps(),
    TIMES,
    TIMES,
    SHARES | st.lists(SHARES, min_size=2, max_size=4).map(lambda parts: ":".join(["gemodel", *parts])),
    st.integers(1, 10**6).map(lambda us: units.time_text(us / 1e6)) | st.integers(1, 10**9).map(units.size_text),
)
PROFILES = st.builds(LinkProfile, DIRECTIONS, DIRECTIONS)


def test_words_say_what_each_way_is() -> None:
    made = profile.parse("up=5mbit down=20mbit+1mbit@30s delay=30ms down.delay=10ms jitter=5ms loss=1% up.queue=64kb")
    assert made.up == Direction("5mbit", "30ms", "5ms", "1%", "64kb")
    assert made.down == Direction("20mbit+1mbit@30s", "10ms", "5ms", "1%")


def test_a_word_without_a_way_is_of_both_and_the_last_word_wins() -> None:
    both = Direction("5mbit", "2ms")
    assert profile.parse("rate=5mbit up.delay=9ms delay=2ms") == LinkProfile(both, both)
    assert profile.parse("delay=2ms up.delay=9ms").up.delay == "9ms"
    assert profile.parse("up=1mbit up.rate=2mbit").up.rate == "2mbit"


@pytest.mark.parametrize("text", ["unlimited", "", "up=unlimited", "delay=0s loss=0%"])
def test_a_link_of_which_nothing_is_said_is_not_shaped(text: str) -> None:
    made = profile.parse(text)
    assert made == UNSHAPED
    assert made.text() == "unlimited"
    assert not made.needs


def test_values_are_read_in_their_units() -> None:
    way = Direction("5mbit", "30ms", "500us", "gemodel:1%:25%:80%:0.5%", "64kb")
    assert (way.delay_s, way.jitter_s) == pytest.approx((0.03, 0.0005))
    assert way.queue_bytes(5e6) == 65536
    assert (way.losses.p, way.losses.r, way.losses.bad, way.losses.good) == (0.01, 0.25, 0.8, 0.005)


@pytest.mark.parametrize(
    ("queue", "mean_bps", "count"),
    [
        ("100ms", 8e6, 100_000),
        ("1s", 8e6, 1_000_000),
        ("1ms", 8e6, QUEUE_BYTES_MIN),
        ("100ms", 0, QUEUE_BYTES_MIN),
        ("2000b", 8e6, 2000),
        ("2000", math.inf, 2000),
        ("100ms", math.inf, 1_250_000_000),
    ],
)
def test_a_queue_is_a_time_at_the_mean_rate_or_bytes(queue: str, mean_bps: float, count: int) -> None:
    assert Direction(queue=queue).queue_bytes(mean_bps) == count


def test_the_queue_of_a_profile_is_by_the_rate_of_its_way(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("".join(f"{ms}\n" for ms in range(1, 1001)))
    made = profile.parse(f"up=mahimahi:{tmp_path / 'trace'} down=8mbit+16mbit@10s queue=1s")
    assert (made.queue_bytes("up"), made.queue_bytes("down")) == (1_514_000, 2_000_000)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_parses_and_says_what_it_is_and_where_it_is_from(name: str) -> None:
    table = tomllib.loads(PRESETS[name].read_text())
    assert set(table) == {"description", "source", "up", "down"}
    assert table["description"].strip()
    assert table["source"].strip()
    made = profile.parse(name)
    assert "rate" in made.needs
    for way in profile.WAYS:
        assert {key: made.table()[way][key] for key in table[way]} == table[way]


def test_there_are_presets_from_slow_to_fast() -> None:
    assert {"3g", "dsl", "lora", "lte", "satellite", "wifi"} <= set(PRESETS)
    assert list(PRESETS) == sorted(PRESETS)


def test_words_after_a_preset_change_it_and_leave_the_rest() -> None:
    lte, made = profile.parse("lte"), profile.parse("lte up=1mbit loss=2% down.delay=1ms")
    assert made.up == Direction("1mbit", lte.up.delay, lte.up.jitter, "2%", lte.up.queue)
    assert made.down == Direction(lte.down.rate, "1ms", lte.down.jitter, "2%", lte.down.queue)


def test_words_after_a_file_change_it_and_leave_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('description = "Mine."\n[up]\nrate = "3mbit"\ndelay = "7ms"\n')
    assert profile.parse(str(file)) == LinkProfile(Direction("3mbit", "7ms"))
    assert profile.parse(f"{file} up=4mbit") == LinkProfile(Direction("4mbit", "7ms"))


def test_a_file_in_the_working_directory_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('[down]\nrate = "3mbit"\n')
    monkeypatch.chdir(tmp_path)
    assert profile.parse("mine.toml").down.rate == "3mbit"


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("up=5mbit", {"rate"}),
        ("down=5mbit", {"rate"}),
        ("up=5mbit+1mbit@3s", {"rate", "varying"}),
        ("delay=1ms", {"delay"}),
        ("down.jitter=1ms", {"jitter"}),
        ("up.loss=1%", {"loss"}),
        ("loss=gemodel:1%:20%", {"loss"}),
        ("loss=gemodel:0%:20%", set()),
        ("queue=5ms", set()),
        ("up=5mbit delay=1ms jitter=1ms loss=1%", {"rate", "delay", "jitter", "loss"}),
    ],
)
def test_a_profile_says_what_it_needs(text: str, needs: set[str]) -> None:
    assert profile.parse(text).needs == needs


def test_traces_vary_and_only_those_of_mahimahi_are_by_packets(tmp_path: Path) -> None:
    (tmp_path / "csv").write_text("t_s,up_bps,down_bps\n0,5,5\n")
    (tmp_path / "mahimahi").write_text("10\n")
    assert profile.parse(f"up=csv:{tmp_path / 'csv'}").needs == {"rate", "varying"}
    assert profile.parse(f"down=mahimahi:{tmp_path / 'mahimahi'}").needs == {"rate", "varying", "mahimahi"}


def test_a_rate_that_remembers_is_made_anew_each_time(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("10\n")
    made = profile.parse(f"up=mahimahi:{tmp_path / 'trace'}")
    made.rate("up").finish(0.0, 1514)
    assert made.rate("up").finish(0.0, 1514) == 0.01


@settings(deadline=None, max_examples=40)
@given(PROFILES)
def test_the_words_of_a_profile_read_back(made: LinkProfile) -> None:
    assert profile.parse(made.text()) == made


@settings(deadline=None, max_examples=40)
@given(PROFILES)
def test_the_table_of_a_profile_reads_back_also_from_a_file(made: LinkProfile) -> None:
    assert profile.from_table(made.table(), Path()) == made
    assert profile.from_table(tomllib.loads(tomli_w.dumps(made.table())), Path("/")) == made


@pytest.mark.parametrize("name", PRESETS)
def test_the_words_of_a_preset_read_back(name: str) -> None:
    made = profile.parse(name)
    assert profile.parse(made.text()) == made


@pytest.mark.parametrize("name", ["a b", "it's", 'a"b', "a\\b", "a=b", "a+b@c"])
def test_the_words_of_a_profile_read_back_whatever_its_trace_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("10\n")
    made = profile.from_table({"up": {"rate": f"mahimahi:{name}"}, "down": {"delay": "5ms"}}, tmp_path)
    assert profile.parse(made.text()) == made


def test_the_words_of_a_profile_read_back_with_blanks_in_a_value() -> None:
    made = profile.from_table({"up": {"delay": "30 ms"}}, Path())
    assert made.up.delay_s == 0.03
    assert profile.parse(made.text()) == made


def test_quotes_keep_a_word_together(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("10\n")
    assert profile.parse(f"'up=mahimahi:{tmp_path / 'a b'}' delay=5ms").up.rate == f"mahimahi:{tmp_path / 'a b'}"


@pytest.mark.parametrize("way", profile.WAYS)
@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("delay", "30", "a time with its unit"),
        ("delay", "-1ms", "a time with its unit"),
        ("delay", "2h", "a time with its unit"),
        ("delay", "3601s", "0s to 3600s"),
        ("jitter", "5", "a time with its unit"),
        ("jitter", "3601s", "0s to 3600s"),
        ("loss", "1", "a share such as 1%"),
        ("loss", "200%", "0% to 100%"),
        ("loss", "gemodel:1%", "gemodel:P:R"),
        ("loss", "gemodel:1%:101%", "0% to 100%"),
        ("queue", "64kbits", "a size such as 64kb"),
        ("queue", "-1b", "a size such as 64kb"),
        ("queue", "0b", "1b or more"),
        ("queue", "0ms", "above 0s, or a size"),
        ("queue", "3601s", "0s to 3600s"),
    ],
)
def test_a_bad_value_is_named_by_its_way_and_key_and_answered_with_what_is_valid(
    way: str, key: str, value: str, valid: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        profile.parse(f"{way}.{key}={value}")
    assert str(caught.value).startswith(f"{way}.{key}: '")
    assert valid in str(caught.value).partition("; valid: ")[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("up=5mbits", "up: '5mbits'; valid: a rate such as 5mbit"),
        ("down.rate=-1", "down: '-1'; valid: a rate such as 5mbit"),
        ("up=0", "up: '0' is out of range; valid: 1bit to 100gbit"),
        ("up=5mbit+1mbit", "up: '1mbit' has no time; valid: RATE@TIME"),
        ("up=ftp:x", "up: 'ftp:x'; valid: csv:FILE or mahimahi:FILE"),
        ("up=csv:/none", "/none: No such file"),
        ("loss=200%", "up.loss: '200%' is out of range; valid: 0% to 100%"),
        ("speed=5mbit", "speed: unknown key of a link profile; valid: up, down, rate, delay, jitter, loss, queue, or"),
        ("up.speed=5mbit", "up.speed: unknown key of a link profile; valid: up, down, rate,"),
        ("left.delay=5ms", "left.delay: unknown key of a link profile; valid: up, down, rate,"),
        ("up.=5ms", "up.: unknown key of a link profile; valid: up, down, rate,"),
        ("up.delay.x=5ms", "up.delay.x: unknown key of a link profile; valid: up, down, rate,"),
        ("=5ms", ": unknown key of a link profile; valid: up, down, rate,"),
        ("up=", "'up=' is no part of a link profile; valid: up, down, rate,"),
        ("up=5mbit lte", "'lte' is no part of a link profile; valid: up, down, rate,"),
        ("up=5mbit 'down", '"up=5mbit \'down" is no link profile: No closing quotation; valid: up, down, rate,'),
        ("lte-advanced", "link profile 'lte-advanced' is unknown; valid: 3g, dsl, lora, lte, satellite, wifi, a path"),
        ("lte delay=5", "up.delay: '5'; valid: a time with its unit"),
        ("/none.toml", "/none.toml: No such file or directory"),
        ("/none", "/none: No such file or directory"),
    ],
)
def test_a_word_that_is_wrong_is_named_and_answered_with_what_is_valid(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        profile.parse(text)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[up", "not TOML"),
        ("[left]\nrate = '5mbit'\n", "left: unknown key of a link profile; valid: the tables up and down"),
        ("up = '5mbit'\n", "up: unknown key of a link profile; valid: the tables up and down"),
        ("[up]\nspeed = '5mbit'\n", "up.speed: unknown key of a link profile; valid: rate, delay, jitter, loss, queue"),
        ("[up]\nrate = 5\n", "up.rate: 5; valid: text with its unit, such as '5mbit' or '30ms'"),
        ("[up]\ndelay = 0.5\n", "up.delay: 0.5; valid: text with its unit, such as '5mbit' or '30ms'"),
        ("[up]\nloss = true\n", "up.loss: True; valid: text with its unit, such as '5mbit' or '30ms'"),
        ("[up.rate]\nx = '1'\n", "up.rate: {'x': '1'}; valid: text with its unit"),
        ("[down]\nrate = '5mbits'\n", "down: '5mbits'; valid: a rate such as 5mbit"),
        ("[down]\ndelay = '5'\n", "down.delay: '5'; valid: a time with its unit"),
        ("[down]\nrate = ''\n", "down: ''; valid: a rate such as 5mbit"),
    ],
)
def test_a_mistake_in_a_file_is_named_by_file_and_key(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        profile.parse(str(file))
    assert str(caught.value).startswith(f"{file}: {said}")


def test_a_trace_that_a_file_names_is_named_with_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[up]\nrate = "csv:none.csv"\n')
    with pytest.raises(SettingsError) as caught:
        profile.parse(str(file))
    assert str(caught.value) == f"{file}: {tmp_path / 'none.csv'}: No such file or directory"


def test_a_direction_that_cannot_be_read_makes_no_profile() -> None:
    with pytest.raises(SettingsError, match=r"^down\.jitter: '1'; valid: "):
        LinkProfile(down=Direction(jitter="1"))
    with pytest.raises(SettingsError, match=r"^up: '5x'; valid: "):
        LinkProfile(up=Direction(rate="5x"))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([*KEYS, "up", "down", ".", "=", " ", "'", "5", "ms", "%", "b", "mbit", "lte", "-"])).map(
        "".join
    )
)
def test_any_words_are_a_profile_or_are_refused_in_one_line(text: str) -> None:
    try:
        made = profile.parse(text)
    except SettingsError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert profile.parse(made.text()) == made

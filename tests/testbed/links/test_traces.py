"""Rates from text and from files of traces: what is read, and what is refused by key, file and line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import SettingsError
from testbed.links import profile, traces, units
from testbed.links.rates import Constant, Mahimahi, Steps

HEAD = "t_s,up_bps,down_bps\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def steps(text: str) -> Steps:
    rate = traces.parse("up", text, "up")
    assert isinstance(rate, Steps)
    return rate


def test_a_rate_is_constant() -> None:
    rate = traces.parse("up", "5mbit", "up")
    assert isinstance(rate, Constant)
    assert rate.mean_bps == 5e6


def test_unlimited_holds_nothing_back() -> None:
    assert traces.parse("up", "unlimited", "up").mean_bps == math.inf


def test_steps_are_rates_at_times() -> None:
    rate = steps("5mbit+1mbit@30s+64kbit@45000ms")
    assert (rate.times_s, rate.rates_bps) == ((0, 30, 45), (5e6, 1e6, 64e3))


@pytest.mark.parametrize("zero", ["0", "0bit", "0kbit", "0mbit", "0gbit", "0bps", "0.0mbit"])
def test_a_step_of_0_in_any_unit_is_an_outage(zero: str) -> None:
    assert steps(f"5mbit+{zero}@10s+5mbit@20s").rates_bps == (5e6, 0, 5e6)
    assert steps(f"{zero}+5mbit@20s").rates_bps == (0, 5e6)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 10**11), min_size=2, max_size=6).filter(any),
    st.lists(st.integers(1, 3_600_000), min_size=5, max_size=5, unique=True).map(sorted),
)
def test_every_row_of_steps_reads_as_it_was_written(rates: list[int], times_ms: list[int]) -> None:
    first, *later = [units.rate_text(bps) for bps in rates]
    rate = steps("+".join([first, *(f"{text}@{ms}ms" for text, ms in zip(later, times_ms, strict=False))]))
    assert rate.rates_bps == pytest.approx(rates)
    assert rate.times_s == pytest.approx([0, *(ms / 1000 for ms in times_ms[: len(later)])])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "down: ''; valid: a rate such as 5mbit"),
        ("0", "down: '0' is out of range; valid: 1bit to 100gbit"),
        ("0mbit", "down: '0mbit' is out of range; valid: 1bit to 100gbit"),
        ("5mbits", "down: '5mbits'; valid: a rate such as 5mbit"),
        ("-5mbit", "down: '-5mbit'; valid: a rate such as 5mbit"),
        ("5mbit@0s", "down: '5mbit@0s'; valid: a rate such as 5mbit"),
        ("5mbit+1mbit", "down: '1mbit' has no time; valid: RATE@TIME, such as 1mbit@30s"),
        ("5mbit+", "down: '' has no time; valid: RATE@TIME, such as 1mbit@30s"),
        ("5mbit+1mbit@", "down: ''; valid: a time with its unit"),
        ("5mbit+1mbit@30", "down: '30'; valid: a time with its unit"),
        ("5mbit+1mbit@2h", "down: '2h'; valid: a time with its unit"),
        ("5mbit+1mbit@3601s", "down: '3601s' is out of range; valid: 0s to 3600s"),
        ("5mbit+@30s", "down: ''; valid: a rate such as 5mbit"),
        ("5mbit+-1mbit@30s", "down: '-1mbit'; valid: a rate such as 5mbit"),
        ("5mbit+unlimited@30s", "down: 'unlimited'; valid: a rate such as 5mbit"),
        ("5mbit+1mbit@0s", "down: '5mbit+1mbit@0s': times have to increase, and 0 s comes after 0 s"),
        ("5mbit+1mbit@9s+2mbit@3s", "down: '5mbit+1mbit@9s+2mbit@3s': times have to increase, and 3 s comes after 9 s"),
        ("0+0@5s", "down: '0+0@5s': all rates are 0"),
        ("tar:x", "down: 'tar:x'; valid: csv:FILE or mahimahi:FILE for a trace"),
        ("CSV:x", "down: 'CSV:x'; valid: csv:FILE or mahimahi:FILE for a trace"),
        (":x", "down: ':x'; valid: csv:FILE or mahimahi:FILE for a trace"),
    ],
)
def test_what_is_no_rate_is_named_by_its_key(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        traces.parse("down", text, "down")
    assert str(caught.value).startswith(said)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["5", "0", "mbit", "+", "@", "30", "s", "-", ".", " ", "unlimited", ":"])).map("".join))
def test_any_text_is_a_rate_or_is_refused_by_its_key(text: str) -> None:
    try:
        assert traces.parse("up", text, "up").mean_bps >= 0
    except SettingsError as error:
        assert str(error).startswith("up: ")


def test_a_table_has_a_rate_each_way(file: Path) -> None:
    file.write_text(HEAD + "0,1000,2000\n1.5,3000,0\n1e1,5e3,6000\n")
    up, down = traces.read_csv(file, "up"), traces.read_csv(file, "down")
    assert (up.times_s, up.rates_bps) == ((0, 1.5, 10), (1000, 3000, 5000))
    assert (down.times_s, down.rates_bps) == ((0, 1.5, 10), (2000, 0, 6000))


def test_a_table_may_have_blanks_and_empty_lines(file: Path) -> None:
    file.write_bytes(b"t_s, up_bps ,down_bps\r\n 0, 1000 ,2000\r\n\r\n1,3000,4000")
    assert traces.read_csv(file, "down").rates_bps == (2000, 4000)


def test_the_other_way_of_a_table_may_be_an_outage_for_good(file: Path) -> None:
    file.write_text(HEAD + "0,1000,0\n")
    assert traces.read_csv(file, "up").rates_bps == (1000,)
    with pytest.raises(SettingsError, match="down_bps: all rates are 0"):
        traces.read_csv(file, "down")


def test_a_trace_is_a_millisecond_a_line(file: Path) -> None:
    file.write_bytes(b"1\n\n 3\r\n3\n10\n\n")
    assert traces.read_mahimahi(file, "up").times_ms == (1, 3, 3, 10)


def test_a_text_names_a_trace_by_its_reader(file: Path) -> None:
    file.write_text(HEAD + "0,1000,2000\n")
    assert traces.parse("down", f"csv:{file}", "down").mean_bps == 2000
    file.write_text("10\n")
    assert isinstance(traces.parse("down", f"mahimahi:{file}", "down"), Mahimahi)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1 is no head; valid: t_s,up_bps,down_bps"),
        ("\n" + HEAD, "line 1 is no head; valid: t_s,up_bps,down_bps"),
        ("0,1000,2000\n", "line 1 is no head; valid: t_s,up_bps,down_bps"),
        ("t_s,down_bps,up_bps\n0,1,1\n", "line 1 is no head; valid: t_s,up_bps,down_bps"),
        ("t_s,up_bps\n0,1\n", "line 1 is no head; valid: t_s,up_bps,down_bps"),
        (HEAD, "up_bps: the first step has to be at 0 s"),
        (HEAD + "1,5,5\n", "up_bps: the first step has to be at 0 s"),
        (HEAD + "0,5,5\n1,fast,5\n", "line 3: '1,fast,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,5,5\n\n1,5mbit,5\n", "line 4: '1,5mbit,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,5\n", "line 2: '0,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,5,5,5\n", "line 2: '0,5,5,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,,5\n", "line 2: '0,,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,nan,5\n", "line 2: '0,nan,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,inf,5\n", "line 2: '0,inf,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,5,5\n1e400,5,5\n", "line 3: '1e400,5,5'; valid: three numbers, t_s,up_bps,down_bps"),
        (HEAD + "0,0,5\n1,0,5\n", "up_bps: all rates are 0"),
        (HEAD + "0,5,5\n2,5,5\n1,5,5\n", "times have to increase, and 1 s comes after 2 s"),
        (HEAD + "0,5,5\n2,5,5\n2,6,6\n", "times have to increase, and 2 s comes after 2 s"),
        (HEAD + "0,5,5\n1,-6,5\n", "-6 bit/s is negative"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(file: Path, content: str, said: str) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        traces.read_csv(file, "up")
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "its last time is its period and has to be above 0 ms"),
        ("\n\n", "its last time is its period and has to be above 0 ms"),
        ("0\n0\n", "its last time is its period and has to be above 0 ms"),
        ("1\n2.5\n", "line 2: '2.5'; valid: a whole number of milliseconds"),
        ("1\n\n-2\n", "line 3: '-2'; valid: a whole number of milliseconds"),
        ("1 2\n", "line 1: '1 2'; valid: a whole number of milliseconds"),
        ("one\n", "line 1: 'one'; valid: a whole number of milliseconds"),
        (HEAD + "0,1,1\n", "line 1: 't_s,up_bps,down_bps'; valid: a whole number of milliseconds"),
        ("1\n5\n3\n", "times must not decrease, and 3 ms comes after 5 ms"),
    ],
)
def test_a_trace_that_cannot_be_used_is_named(file: Path, content: str, said: str) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        traces.read_mahimahi(file, "up")
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "content", "line"),
    [
        ("csv", HEAD + "0,5,5\n2,5,5\n1,5,5\n", 4),
        ("csv", HEAD + "0,5,5\n\n1,-6,5\n", 4),
        ("csv", HEAD + "1,5,5\n", 2),
        ("mahimahi", "1\n\n5\n3\n", 4),
    ],
)
def test_a_number_that_cannot_stand_where_it_does_is_named_by_its_line(
    file: Path, kind: str, content: str, line: int
) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError, match=f"line {line}: "):
        traces.parse("up", f"{kind}:{file}", "up")


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_millisecond_beyond_every_number_is_refused(file: Path, digits: int) -> None:
    file.write_text("1\n" + "9" * digits + "\n")
    with pytest.raises(SettingsError) as caught:
        traces.read_mahimahi(file, "up")
    assert str(caught.value).startswith(f"{file}: ")


def test_a_cell_beyond_every_size_is_refused(file: Path) -> None:
    file.write_text(HEAD + "0," + "1" * 200_000 + ",5\n")
    with pytest.raises(SettingsError) as caught:
        traces.read_csv(file, "up")
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("kind", traces.READERS)
def test_a_file_that_is_missing_a_folder_or_no_text_is_named(tmp_path: Path, kind: str) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    for name, said in [("none", "No such file or directory"), (".", "Is a directory"), ("binary", "no text; valid: ")]:
        with pytest.raises(SettingsError) as caught:
            traces.parse("up", f"{kind}:{tmp_path / name}", "up")
        assert str(caught.value).startswith(f"{tmp_path / name}: {said}")


@pytest.mark.parametrize("kind", traces.READERS)
def test_a_file_is_named_from_a_folder(kind: str) -> None:
    folder = Path("/some/where")
    assert traces.absolute(f"{kind}:a b/t.csv", folder) == f"{kind}:/some/where/a b/t.csv"
    assert traces.absolute(f"{kind}:/else/t:1.csv", folder) == f"{kind}:/else/t:1.csv"
    assert traces.absolute(f"{kind}:t", Path()) == f"{kind}:{Path.cwd() / 't'}"


@pytest.mark.parametrize("text", ["5mbit", "unlimited", "5mbit+1mbit@30s", "tar:x", "csv"])
def test_what_names_no_file_stays_as_it_is(text: str) -> None:
    assert traces.absolute(text, Path("/some/where")) == text


def test_the_trace_of_a_profile_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "t.csv").write_text(HEAD + "0,1000,2000\n")
    (tmp_path / "mine.toml").write_text('[up]\nrate = "csv:traces/t.csv"\n[down]\nrate = "csv:traces/t.csv"\n')
    monkeypatch.chdir("/")
    made = profile.parse(str(tmp_path / "mine.toml"))
    assert made.up.rate == f"csv:{tmp_path / 'traces' / 't.csv'}"
    assert (made.rate("up").mean_bps, made.rate("down").mean_bps) == (1000, 2000)


def test_the_trace_of_a_word_lies_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").write_text("10\n")
    monkeypatch.chdir(tmp_path)
    assert profile.parse("up=mahimahi:t").up.rate == f"mahimahi:{tmp_path / 't'}"


def test_a_trace_is_read_once_and_each_link_has_a_rate_of_its_own(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{ms}\n" for ms in range(1, 200_001)))
    first = traces.parse("up", f"mahimahi:{trace}", "up")
    assert first.finish(0.0, 1514) == 0.001
    assert first.finish(0.0, 1514) == 0.002
    second = traces.parse("up", f"mahimahi:{trace}", "up")
    assert second.finish(0.0, 1514) == 0.001
    trace.write_text("7\n")
    assert traces.parse("up", f"mahimahi:{trace}", "up").finish(0.0, 1514) == 0.007

"""Rates from text: `5mbit`, steps such as `5mbit+1mbit@30s`, and trace files, `csv:FILE` and `mahimahi:FILE`."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from broker.errors import SettingsError
from testbed.links import units
from testbed.links.rates import Constant, Mahimahi, Rate, Steps

UNLIMITED = "unlimited"
Way = Literal["up", "down"]
COLUMNS = ("t_s", "up_bps", "down_bps")
DIGITS_MAX = 12  # of a time in milliseconds: 30 years


def absolute(text: str, folder: Path) -> str:
    """The same rate with the file of a trace, if it is one, by its full path."""
    kind, separator, name = text.partition(":")
    return f"{kind}:{(folder / name).absolute()}" if separator and kind in READERS else text


def file(text: str) -> str | None:
    """The trace file of a rate; None for one that has none."""
    kind, _, name = text.partition(":")
    return name if kind in READERS else None


def parse(key: str, text: str, way: Way) -> Rate:
    """The rate that a text tells; SettingsError names the key, or the file and its line."""
    kind, separator, name = text.partition(":")
    if separator:
        if kind not in READERS:
            raise SettingsError(f"{key}: {text!r}; valid: csv:FILE or mahimahi:FILE for a trace")
        return copy.copy(_read(kind, Path(name), _stamp(Path(name)), way))
    if text == UNLIMITED:
        return Constant(math.inf)
    first, *later = text.split("+")
    if not later:
        return Constant(units.rate(key, first))
    times, rates = [0.0], [units.rate(key, first, outage=True)]
    for step in later:
        value, separator, at = step.partition("@")
        if not separator:
            raise SettingsError(f"{key}: {step!r} has no time; valid: RATE@TIME, such as 1mbit@30s")
        times.append(units.time(key, at))
        rates.append(units.rate(key, value, outage=True))
    try:
        return Steps(times, rates)
    except ValueError as error:
        raise SettingsError(f"{key}: {text!r}: {error}") from None


@functools.lru_cache(maxsize=1024)
def _read(kind: str, path: Path, stamp: tuple[int, int], way: Way) -> Rate:
    """A trace file as it is at a stamp, read once: it may be long, and every link asks for rates of its own."""
    return READERS[kind](path, way)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file's content; zeros where there is none, which reading it will say."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def read_csv(path: Path, way: Way) -> Steps:
    """A table with the columns t_s, up_bps and down_bps (bit/s from that time on), of which one way is taken."""
    lines = _lines(path)
    if not lines or tuple(name.strip() for name in lines[0].split(",")) != COLUMNS:
        raise SettingsError(f"{path}: line 1 is no head; valid: {','.join(COLUMNS)}")
    times: list[float] = []
    rates: list[float] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            values = [float(cell) for cell in line.split(",")]
        except ValueError:
            values = []
        if len(values) != len(COLUMNS) or not all(math.isfinite(value) for value in values):
            raise SettingsError(f"{path}: line {number}: {line[:60]!r}; valid: three numbers, {','.join(COLUMNS)}")
        bps = values[COLUMNS.index(f"{way}_bps")]
        wrong = _wrong_step(times, values[0], bps)
        if wrong:
            raise SettingsError(f"{path}: line {number}: {way}_bps: {wrong}")
        times.append(values[0])
        rates.append(bps)
    try:
        return Steps(times, rates)
    except ValueError as error:
        raise SettingsError(f"{path}: {way}_bps: {error}") from None


def _wrong_step(before: list[float], time_s: float, bps: float) -> str:
    """Why a step cannot come after those before; empty where it can."""
    if not before and time_s != 0:
        return "the first step has to be at 0 s"
    if before and time_s <= before[-1]:
        return f"times have to increase, and {time_s:g} s comes after {before[-1]:g} s"
    return f"{bps:g} bit/s is negative" if bps < 0 else ""


def read_mahimahi(path: Path, way: Way) -> Mahimahi:
    """A Mahimahi trace: a time in whole milliseconds a line."""
    times: list[int] = []
    for number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if not text:
            continue
        if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX):
            raise SettingsError(f"{path}: line {number}: {text[:60]!r}; valid: a whole number of milliseconds")
        if times and int(text) < times[-1]:
            told = f"times must not decrease, and {text} ms comes after {times[-1]} ms"
            raise SettingsError(f"{path}: line {number}: {told}")
        times.append(int(text))
    try:
        return Mahimahi(times)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None


READERS: dict[str, Callable[[Path, Way], Rate]] = {"csv": read_csv, "mahimahi": read_mahimahi}


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: no text; valid: a trace as text") from None

"""Rates, times, sizes and shares as tc writes them: `5mbit`, `30ms`, `64kb`, `1%`.

Rates are bits per second of layer 2; a bare number is bit/s, as in tc. A bare time or share is refused: tc reads one
as microseconds and the other as percent, which hardly anybody expects. Sizes count 1024 bytes to the kilobyte, rates
1000 bits to the kilobit, both as tc does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from broker.errors import SettingsError

_NUMBER = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z%]*)")

_BITS = {"bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
_BITS |= {"kibit": 2**10, "mibit": 2**20, "gibit": 2**30, "tibit": 2**40}
RATES = _BITS | {unit.replace("bit", "bps"): 8 * bits for unit, bits in _BITS.items()}
TIMES = {"s": 1.0, "sec": 1.0, "secs": 1.0, "ms": 1e-3, "msec": 1e-3, "msecs": 1e-3}
TIMES |= {"us": 1e-6, "usec": 1e-6, "usecs": 1e-6}
SIZES = {"": 1, "b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30}
SIZES |= {"kbit": 2**7, "mbit": 2**17, "gbit": 2**27}

RATE_MAX_BPS = 1e11
TIME_MAX_S = 3600.0
SIZE_END_BYTES = 1 << 63


def rate(key: str, text: str, outage: bool = False) -> float:
    """Bits per second; SettingsError unless it is from 1 bit/s to 100 Gbit/s, or 0 where an `outage` is allowed."""
    value = _value(key, text, RATES | {"": 1}, "a rate such as 5mbit, 64kbit or 1.5mbps (bytes)")
    if not (1 <= value <= RATE_MAX_BPS or (outage and value == 0)):
        raise SettingsError(f"{key}: {text!r} is out of range; valid: 1bit to 100gbit")
    return value


def time(key: str, text: str) -> float:
    """Seconds; SettingsError for a negative time, one without a unit, and one over an hour."""
    value = _value(key, text, TIMES, "a time with its unit, such as 30ms, 500us or 2s")
    if value > TIME_MAX_S:
        raise SettingsError(f"{key}: {text!r} is out of range; valid: 0s to {TIME_MAX_S:g}s")
    return value


def size(key: str, text: str) -> int:
    """Bytes; SettingsError unless it is above 0."""
    value = _value(key, text, SIZES, "a size such as 64kb or 30000b")
    if not 1 <= value < SIZE_END_BYTES:
        raise SettingsError(f"{key}: {text!r} is out of range; valid: 1b or more")
    return int(value)


def share(key: str, text: str) -> float:
    """A share from `0%` to `100%`, as a number from 0 to 1."""
    value = _value(key, text, {"%": 0.01}, "a share such as 1% or 0.25%")
    if value > 1:
        raise SettingsError(f"{key}: {text!r} is out of range; valid: 0% to 100%")
    return value


def is_time(text: str) -> bool:
    """Whether the text has a unit of time, for what may be either a time or a size."""
    match = _NUMBER.fullmatch(text.strip().lower())
    return match is not None and match[2] in TIMES


def _value(key: str, text: str, units: Mapping[str, float], valid: str) -> float:
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units:
        raise SettingsError(f"{key}: {text!r}; valid: {valid}")
    return float(match[1]) * units[match[2]]


def rate_text(bps: float) -> str:
    """The rate in the largest unit that leaves a number of 1 or more."""
    for unit in ("gbit", "mbit", "kbit"):
        if bps >= _BITS[unit]:
            return f"{bps / _BITS[unit]:.12g}{unit}"
    return f"{bps:.12g}bit"


def time_text(seconds: float) -> str:
    """The time in s from one second up, in ms from one millisecond, else in us."""
    for unit in ("s", "ms"):
        if seconds >= TIMES[unit]:
            return f"{seconds / TIMES[unit]:.12g}{unit}"
    return f"{seconds / TIMES['us']:.12g}us" if seconds else "0s"


def size_text(count: int) -> str:
    """The size in bytes."""
    return f"{count}b"


def share_text(value: float) -> str:
    """The share in percent."""
    return f"{100 * value:.12g}%"

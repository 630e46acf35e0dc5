"""What the fields of messages may hold: a check per kind of field, carried by the field's annotation."""

from __future__ import annotations

import math
import reprlib
import typing
from collections.abc import Callable
from typing import Annotated, Any

from broker.topics import check_name
from broker.wire import MAX_CHUNKS

MAX_ITEMS = 4096  # entries of one list or map; also what one length byte sequence may make msgpack allocate
MAX_TEXT = 65536  # bytes of one string
MAX_DEPTH = 16  # nesting of the values in a dict[str, Any]
MAX_RUNS = 500  # runs of chunks that are named of one message

Check = Callable[[Any], Any]


def _exact(kind: type) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{reprlib.repr(value)} is no {kind.__name__}")
        return value

    return check


def _whole(low: int, high: int) -> Check:
    def check(value: Any) -> Any:
        if not low <= _INT(value) <= high:
            raise ValueError(f"{value} is out of {low}..{high}")
        return value

    return check


def _text(value: Any) -> Any:
    if len(_STR(value).encode()) > MAX_TEXT:
        raise ValueError(f"{len(value)} characters are more than {MAX_TEXT} bytes")
    return value


def _choice(*choices: str) -> Check:
    def check(value: Any) -> Any:
        if value not in choices or type(value) is not str:
            raise ValueError(f"{reprlib.repr(value)} is unknown; valid: {', '.join(choices)}")
        return value

    return check


def _real(value: Any) -> float:
    return float(value) if type(value) is int else typing.cast(float, _FLOAT(value))


def _items(kind: type, item: Check) -> Check:
    def check(value: Any) -> Any:
        if len(_exact(kind)(value)) > MAX_ITEMS:
            raise ValueError(f"{len(value)} entries are more than {MAX_ITEMS}")
        if kind is list:
            return [item(entry) for entry in value]
        return {_text(key): item(entry) for key, entry in value.items()}

    return check


def _runs(value: Any) -> Any:
    """Of each message its id, then first and last index of runs of chunks: ascending, and none twice."""
    entries = _items(list, _run_list)(value)
    if (runs := sum(len(entry) // 2 for entry in entries)) > MAX_ITEMS:
        raise ValueError(f"{runs} runs are more than {MAX_ITEMS}")
    return entries


def _run_list(value: Any) -> Any:
    message_id, *bounds = _exact(list)(value) or [None]
    _U32(message_id)
    if not bounds or len(bounds) % 2 or len(bounds) > 2 * MAX_RUNS:
        raise ValueError(f"{len(bounds)} numbers are no 1 to {MAX_RUNS} runs")
    before = -1
    for first, last in zip(bounds[::2], bounds[1::2], strict=True):
        if not before < _INT(first) <= _INT(last) < MAX_CHUNKS:
            raise ValueError(f"{first} to {last} is no run of chunks behind {before}")
        before = last
    return value


def _threshold(value: Any) -> float:
    if math.isnan(number := _real(value)):
        raise ValueError("nan is no threshold")
    return number


def _plain(value: Any, depth: int = 0) -> Any:
    """A value that every other end can read: None, bool, int, float, str, bytes, lists and maps of them."""
    if value is None or type(value) in (bool, float, bytes):
        return value
    if type(value) is int:
        return _whole(-(2**63), 2**64 - 1)(value)
    if type(value) is str:
        return _text(value)
    if type(value) not in (list, dict) or depth >= MAX_DEPTH:
        raise ValueError(f"{reprlib.repr(value)} cannot travel" if depth < MAX_DEPTH else "nested too deep")
    return _items(type(value), lambda entry: _plain(entry, depth + 1))(value)


_INT, _STR, _FLOAT = _exact(int), _exact(str), _exact(float)
_U32 = _whole(0, 2**32 - 1)

Text = Annotated[str, _text]
Name = Annotated[str, check_name]
Flag = Annotated[bool, _exact(bool)]
Blob = Annotated[bytes, _exact(bytes)]
Real = Annotated[float, _real]
U16 = Annotated[int, _whole(0, 2**16 - 1)]
U32 = Annotated[int, _U32]
Last = Annotated[int, _whole(-1, 2**32 - 1)]  # the last step that ..., -1 for none
Steps = Annotated[list[int], _items(list, _U32)]
Runs = Annotated[list[list[int]], _runs]
Samples = Annotated[list[int], _items(list, _whole(0, 2**64 - 1))]
ByStream = Annotated[dict[str, float], _items(dict, _threshold)]
Table = Annotated[dict[str, Any], _items(dict, _plain)]
Status = Annotated[str, _choice("online", "offline")]

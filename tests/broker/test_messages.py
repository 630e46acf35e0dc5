"""The bodies of the messages: frozen bytes, strict decoding."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import checks
from broker.errors import WireError
from broker.messages import (
    MESSAGES,
    ActivationDown,
    ActivationUp,
    Begin,
    Credit,
    DownHeld,
    End,
    EpochEnd,
    Failure,
    GradientDown,
    GradientUp,
    Hello,
    Message,
    Metrics,
    Share,
    State,
    StepRefused,
    Thresholds,
    UpHeld,
    Welcome,
    decode,
    encode,
)

GOLDEN: list[tuple[int, str, Message, str]] = [
    (1, "info", Hello("a-0", 0xDEADBEEF, 1, 300, "b1", "sc"), "96a3612d30cedeadbeef01cd012ca26231a27363"),
    (2, "cmd", Welcome({"cut": 3, "lr": 0.5, "x": None}, 7), "9283a363757403a26c72cb3fe0000000000000a178c007"),
    (
        3,
        "down",
        Begin(2, {"activation_up": 0.75}, b"\x01"),
        "930281ad61637469766174696f6e5f7570cb3fe8000000000000c40101",
    ),
    (4, "up", ActivationUp(5, 1, b"\x0a\x0b", b"\x0c", -1, [3, 300]), "960501c4020a0bc4010cff9203cd012c"),
    (5, "down", GradientDown(70000, b"", 1.5), "93ce00011170c400cb3ff8000000000000"),
    (6, "cmd", StepRefused(9, "nan", [2**40]), "9309a36e616e91cf0000010000000000"),
    (7, "up", EpochEnd(0, 24, 3, b"\xff", 2, []), "96001803c401ff0290"),
    (8, "cmd", End(True, ""), "92c3a0"),
    (9, "ack", Credit(258, 32), "92cd010220"),
    (10, "state", State("online", 1), "92a66f6e6c696e6501"),
    (11, "metrics", Metrics({"s": [1, "a", False]}), "9181a1739301a161c2"),
    (12, "ack", Failure("no disk"), "91a76e6f206469736b"),
    (13, "down", Thresholds({"gradient_up": 0.75}), "9181ab6772616469656e745f7570cb3fe8000000000000"),
    (
        14,
        "cmd",
        UpHeld(0xDEADBEEF, True, [1, 300], [[301, 0, 9, 12, 12]]),
        "94cedeadbeefc39201cd012c9195cd012d00090c0c",
    ),
    (15, "ack", DownHeld(7, False, [], []), "9407c29090"),
    (16, "cmd", Share(1 << 20), "91ce00100000"),
    (20, "down", ActivationDown(7, b"\x0a\x0b"), "9207c4020a0b"),
    (21, "up", GradientUp(7, b"\x0c", 1.5, 300), "9407c4010ccb3ff8000000000000cd012c"),
]


@pytest.mark.parametrize(("code", "channel", "message", "body"), GOLDEN)
def test_bytes_are_frozen(code: int, channel: str, message: Message, body: str) -> None:
    assert (type(message).code, type(message).channel) == (code, channel)
    assert encode(message).hex() == body
    assert decode(code, bytes.fromhex(body)) == message


def test_the_registry_is_complete_and_every_code_is_its_messages_own() -> None:
    assert {code: kind.code for code, kind in MESSAGES.items()} == {code: code for code in (*range(1, 17), 20, 21)}
    assert {kind for _, _, message, _ in GOLDEN for kind in [type(message)]} == set(MESSAGES.values())
    for code in (0, 17, 19, 22, 255):
        with pytest.raises(WireError, match=f"message type {code} is unknown; valid: 1, 2"):
            decode(code, b"\x90")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CHUNKS = st.sets(st.integers(0, 65534), min_size=2, max_size=20).map(sorted).filter(lambda ends: len(ends) % 2 == 0)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    checks.Text: st.text(),
    checks.Name: st.text("az09_.-", min_size=1, max_size=64),
    checks.Flag: st.booleans(),
    checks.Blob: st.binary(max_size=300),
    checks.Real: st.floats(allow_nan=False),
    checks.U16: st.integers(0, 2**16 - 1),
    checks.U32: st.integers(0, 2**32 - 1),
    checks.Last: st.integers(-1, 2**32 - 1),
    checks.Steps: st.lists(st.integers(0, 2**32 - 1)),
    checks.Runs: st.lists(st.tuples(st.integers(0, 2**32 - 1), CHUNKS).map(lambda entry: [entry[0], *entry[1]])),
    checks.Samples: st.lists(st.integers(0, 2**64 - 1)),
    checks.ByStream: st.dictionaries(st.text(), st.floats(allow_nan=False)),
    checks.Table: st.dictionaries(st.text(), PLAIN, max_size=4),
    checks.Status: st.sampled_from(["online", "offline"]),
}


def any_message(kind: type[Message]) -> st.SearchStrategy[Message]:
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, kind))]
    return st.builds(kind, **{name: FIELDS[hints[name]] for name in names})


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(MESSAGES.values())).flatmap(any_message))
def test_decoding_is_the_inverse_of_encoding(message: Message) -> None:
    assert decode(type(message).code, encode(message)) == message


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(MESSAGES)), st.binary(max_size=64) | PLAIN.map(msgpack.packb))
def test_any_bytes_raise_only_wire_errors(code: int, body: bytes) -> None:
    try:
        message = decode(code, body)
    except WireError:
        return
    assert decode(code, encode(message)) == message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Credit(-1, 0), "Credit.message: -1 is out of 0..4294967295"),
        (Credit(0, 2**16), "Credit.chunks: 65536 is out of 0..65535"),
        (Credit(True, 0), "Credit.message: True is no int"),
        (GradientDown(0, "text", 0.0), "GradientDown.packet: 'text' is no bytes"),  # type: ignore[arg-type]
        (ActivationUp(0, 0, b"", b"", -2, []), "ActivationUp.applied: -2 is out of -1.."),
        (ActivationUp(0, 0, b"", b"", 0, [-1]), "ActivationUp.refused: -1 is out of"),
        (StepRefused(0, "", [0] * 4097), "StepRefused.keyframes: 4097 entries are more than 4096"),
        (Begin(0, {"x": math.nan}, b""), "Begin.thresholds: nan is no threshold"),
        (GradientDown(0, b"", 10**400), "GradientDown.loss: int too large"),
        (State("away", 0), "State.status: 'away' is unknown; valid: online, offline"),
        (Hello("a/b", 0, 1, 0, "", ""), "Hello.client: name 'a/b' is no name"),
        (Failure("x" * 65537), "Failure.reason: 65537 characters are more than 65536 bytes"),
        (Welcome({"x": object()}, 0), "Welcome.settings: .* cannot travel"),
        (Metrics({1: 2}), "Metrics.values: 1 is no str"),  # type: ignore[dict-item]
        (End(1, ""), "End.ok: 1 is no bool"),  # type: ignore[arg-type]
        *(
            (DownHeld(7, False, [], partial), f"DownHeld.partial: {reason}")
            for partial, reason in (
                ([[]], "None is no int"),
                ([7], "7 is no list"),  # type: ignore[list-item]
                ([[1]], "0 numbers are no 1 to 500 runs"),
                ([[1, 0]], "1 numbers are no 1 to 500 runs"),
                ([[2**32, 0, 0]], "4294967296 is out of 0..4294967295"),
                ([[1, 0, 65535]], "0 to 65535 is no run of chunks"),
                ([[1, -1, 3]], "-1 to 3 is no run"),
                ([[1, 5, 4]], "5 to 4 is no run"),
                ([[1, 3, 4, 0, 1]], "0 to 1 is no run of chunks behind 4"),
                ([[1, 0, 4, 4, 5]], "4 to 5 is no run of chunks behind 4"),
                ([[1, *range(1002)]], "1002 numbers are no 1 to 500 runs"),
                ([[1, *range(1000)]] * 9, "4500 runs are more than 4096"),
            )
        ),
    ],
)
def test_a_bad_field_is_named_in_both_directions(message: Message, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        encode(message)
    fields = [getattr(message, field.name) for field in dataclasses.fields(typing.cast(Any, message))]
    try:
        body = msgpack.packb(fields)
    except (TypeError, OverflowError):
        return
    with pytest.raises(WireError, match=type(message).__name__):
        decode(type(message).code, body)


def test_a_whole_number_is_accepted_where_a_real_one_is_due() -> None:
    message = decode(3, encode(Begin(0, {"x": 1}, b"")))
    assert isinstance(message, Begin)
    assert type(message.thresholds["x"]) is float


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x91\x01", "Credit: body has 1 fields in place of an array of 2 fields"),
        (b"\x93\x01\x02\x03", "Credit: body has 3 fields"),
        (b"\x81\x01\x02", "Credit: body is no msgpack"),
        (b"\x80", "Credit: body has dict in place of"),
        (b"\xc0", "Credit: body has NoneType in place of"),
        (b"", "Credit: body is no msgpack"),
        (b"\x92\x01", "Credit: body is no msgpack"),
        (b"\x92\x01\x02\x03", "Credit: body is no msgpack"),
        (b"\x92\x01\xd4\x01\x00", "Credit: body is no msgpack"),
    ],
)
def test_other_shapes_are_refused_by_message(body: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode(9, body)


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x92\xc6\xff\xff\xff\xff",
        b"\x92\xdb\xff\xff\xff\xff",
        b"\xdc\x10\x00" * 1000,
        b"\x91" * 100_000,
    ],
)
def test_length_bombs_allocate_next_to_nothing(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(2, body)
        assert tracemalloc.get_traced_memory()[1] < 48 * 2**20
    finally:
        tracemalloc.stop()

"""The envelope: frozen bytes, any order, any repetition, any damage."""

from __future__ import annotations

import zlib
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import VersionError, WireError
from broker.reassembler import Placed, Reassembler
from broker.room import Room
from broker.wire import HEADER, Envelope, parse, split

GOLDEN = (
    "5343"  # magic
    "01"  # version
    "05"  # message type
    "00"  # flags
    "02"  # credit
    "0001"  # chunk index
    "0003"  # chunk count
    "deadbeef"  # boot
    "00000107"  # message id
    "00000008"  # body length
    "e63c2091"  # crc32
    "030405"  # the chunk
)


def chunks(body: bytes, size: int, message_id: int = 1, boot: int = 7, kind: int = 4, credit: int = 0) -> list[bytes]:
    return [header + bytes(chunk) for header, chunk in split(kind, boot, message_id, body, size, credit)]


def reassembler(
    limit: int = 10**6, in_progress: int = 2 * 10**6, messages: int = 8, remembered: int = 1024
) -> Reassembler:
    return Reassembler(limit, in_progress, messages, remembered)


def feed(target: Reassembler, *data: bytes) -> list[bytes]:
    placed = [target.add(parse(piece)) for piece in data]
    return [bytes(done.body) for done in placed if done.body is not None]


def test_bytes_are_frozen() -> None:
    assert HEADER.size == 26
    made = chunks(bytes(range(8)), 3, message_id=0x107, boot=0xDEADBEEF, kind=5, credit=2)[1]
    assert made.hex() == GOLDEN
    envelope = parse(bytes.fromhex(GOLDEN))
    assert envelope == Envelope(5, 2, 1, 3, 0xDEADBEEF, 0x107, 8, envelope.chunk)
    assert bytes(envelope.chunk) == b"\x03\x04\x05"


def test_the_checksum_covers_the_header_with_a_zero_checksum_and_the_chunk() -> None:
    data = bytes.fromhex(GOLDEN)
    assert zlib.crc32(data[:22] + bytes(4) + data[26:]) == int.from_bytes(data[22:26], "big")


def test_an_empty_body_is_one_empty_chunk() -> None:
    [only] = chunks(b"", 10)
    assert len(only) == HEADER.size
    assert feed(reassembler(), only) == [b""]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 64), st.randoms(use_true_random=False), st.data())
def test_any_order_and_repetition_give_the_same_body_once(
    body: bytes, size: int, order: object, data: st.DataObject
) -> None:
    pieces = chunks(body, size)
    extra = data.draw(st.lists(st.sampled_from(pieces), max_size=5))
    shuffled = data.draw(st.permutations(pieces + extra))
    target = reassembler()
    assert feed(target, *shuffled) == [body]
    assert target.duplicates == len(extra)
    assert target.bytes_in_progress == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.integers(1, 20), st.data())
def test_interleaved_messages_do_not_mix(bodies: list[bytes], size: int, data: st.DataObject) -> None:
    pieces = [piece for number, body in enumerate(bodies) for piece in chunks(body, size, message_id=number)]
    assert sorted(feed(reassembler(), *data.draw(st.permutations(pieces)))) == sorted(bodies)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"SC\x01" + tail))
def test_any_bytes_raise_only_wire_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        parse(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 8 * len(bytes.fromhex(GOLDEN)) - 1))
def test_one_flipped_bit_is_always_noticed(bit: int) -> None:
    data = bytearray(bytes.fromhex(GOLDEN))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        parse(data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3, st.integers(1, 4), st.integers(0, 12), st.binary(max_size=6))))
def test_sound_chunks_that_contradict_each_other_raise_only_wire_errors(
    pieces: list[tuple[int, int, int, int, int, bytes]],
) -> None:
    target = reassembler(limit=10, in_progress=12, messages=2, remembered=2)
    for boot, message_id, index, count, total, chunk in pieces:
        try:
            target.add(parse(sealed(4, 0, index, count, boot, message_id, total, chunk)))
        except WireError:
            continue
        assert target.bytes_in_progress <= 12


def sealed(
    kind: int, flags: int, index: int, count: int, boot: int, message_id: int, total: int, chunk: bytes
) -> bytes:
    header = HEADER.pack(b"SC", 1, kind, flags, 0, index, count, boot, message_id, total, 0)
    return header[:-4] + zlib.crc32(header + chunk).to_bytes(4, "big") + chunk


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "do not begin with the magic"),
        (b"XX" + bytes(30), "do not begin with the magic"),
        (b"SC\x01\x04", "shorter than an envelope's header of 26"),
        (sealed(4, 1, 0, 1, 1, 1, 0, b""), "flags 0x01 are unknown"),
        (sealed(4, 0, 2, 2, 1, 1, 9, b"x"), "chunk 2 of a message of 2 chunks"),
        (sealed(4, 0, 0, 0, 1, 1, 0, b""), "chunk 0 of a message of 0 chunks"),
        (sealed(4, 0, 0, 1, 1, 1, 5, b"four"), "4 bytes as chunk 0 of 1 do not fit into 5"),
        (sealed(4, 0, 0, 2, 1, 1, 4, b"four"), "4 bytes as chunk 0 of 2 do not fit into 4"),
        (sealed(4, 0, 1, 2, 1, 1, 4, b""), "0 bytes as chunk 1 of 2 do not fit"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse(data)


@pytest.mark.parametrize("data", [b"SC\x02", b"SC\x00" + bytes(100)])
def test_another_version_names_both_whatever_follows(data: bytes) -> None:
    with pytest.raises(VersionError, match=f"version {data[2]}, this end speaks version 1"):
        parse(data)


def test_more_chunks_than_the_header_can_count_are_refused() -> None:
    with pytest.raises(WireError, match="65536 chunks, more than 65535"):
        next(split(4, 1, 1, bytes(65536), 1))


def test_a_completed_message_stays_known() -> None:
    target = reassembler()
    pieces = chunks(b"abcdef", 2)
    assert feed(target, *pieces, *pieces, pieces[1]) == [b"abcdef"]
    assert target.duplicates == 4
    assert target.add(parse(pieces[0])) == Placed(0)


def test_ids_older_than_the_remembered_ones_count_as_seen() -> None:
    target = reassembler(remembered=3)
    for number in range(10, 20):
        assert feed(target, *chunks(b"x", 1, message_id=number)) == [b"x"]
    assert feed(target, *chunks(b"x", 1, message_id=10), *chunks(b"x", 1, message_id=5)) == []


def test_each_message_type_remembers_its_own_ids() -> None:
    # A last will is numbered when a connection begins and comes when it ends, long after its neighbours.
    target = reassembler(remembered=3)
    for number in range(2, 20):
        feed(target, *chunks(b"x", 1, message_id=number, kind=4))
    assert feed(target, *chunks(b"will", 10, message_id=1, kind=10)) == [b"will"]


def test_a_new_boot_drops_the_old_ones_partial_messages_and_late_chunks() -> None:
    target = reassembler()
    old, new = chunks(b"old one", 4, boot=1), chunks(b"new one", 4, boot=2)
    assert feed(target, old[0], new[0], old[1], new[1], *old) == [b"new one"]
    assert (target.abandoned, target.stale) == (1, 3)
    assert target.bytes_in_progress == 0


def test_a_boot_that_was_replaced_is_back_with_new_word_of_itself_and_no_message_comes_twice() -> None:
    target = Reassembler(10**6, 2 * 10**6, returns=(9,))
    done, late = chunks(b"x", 1, message_id=5, boot=1), chunks(b"y", 1, message_id=6, boot=1)
    assert feed(target, *chunks(b"here", 9, message_id=4, boot=1, kind=9), *done) == [b"here", b"x"]
    assert feed(target, *chunks(b"other", 9, message_id=1, boot=2)) == [b"other"]
    assert feed(target, *done, *late, *chunks(b"here", 9, message_id=4, boot=1, kind=9)) == []
    assert target.boot == 2
    assert feed(target, *chunks(b"back", 9, message_id=7, boot=1, kind=9), *done, *late) == [b"back", b"y"]
    assert feed(target, *chunks(b"late", 9, message_id=2, boot=2)) == []
    assert feed(target, *chunks(b"again", 9, message_id=3, boot=2, kind=9)) == [b"again"]


def test_a_message_over_the_limit_is_refused_by_its_first_chunk() -> None:
    target = reassembler(limit=100)
    with pytest.raises(WireError, match="101 bytes is over the limit of 100"):
        feed(target, chunks(bytes(101), 10)[0])
    assert target.bytes_in_progress == 0


def test_the_oldest_partial_message_makes_room() -> None:
    target = reassembler(limit=100, in_progress=250, messages=8)
    first, second, third = (chunks(bytes(100), 60, message_id=number) for number in range(3))
    assert feed(target, first[0], second[0], third[0]) == []
    assert (target.bytes_in_progress, target.abandoned) == (200, 1)
    assert feed(target, second[1], third[1]) == [bytes(100)] * 2
    few = reassembler(messages=2)
    assert feed(few, first[0], second[0], third[0]) == []
    assert few.abandoned == 1


def test_senders_share_their_room_and_the_message_that_waited_longest_has_to_come_again() -> None:
    room, robbed = Room(250), []
    first, second, third = (
        Reassembler(100, 200, room=room, robbed=lambda name=name: robbed.append(name))  # type: ignore[misc]
        for name in ("first", "second", "third")
    )
    pieces = chunks(bytes(100), 30)
    feed(first, pieces[0])
    feed(second, pieces[0])
    feed(first, pieces[1])
    feed(third, pieces[0])
    assert robbed == ["second"]
    assert (room.used, second.abandoned, second.bytes_in_progress) == (200, 1, 0)
    assert feed(first, *pieces[2:]) == feed(third, *pieces[1:]) == feed(second, *pieces) == [bytes(100)]
    assert room.used == 0
    feed(first, *chunks(bytes(100), 30, message_id=9)[:2])
    first.forget()
    assert room.used == 0


def test_memory_that_the_system_does_not_give_is_the_messages_fault_alone() -> None:
    target = reassembler()
    with mock.patch("mmap.mmap", side_effect=OSError("none left")), pytest.raises(WireError, match="none left"):
        feed(target, chunks(b"abcd", 2)[0])
    assert feed(target, *chunks(b"abcd", 2)) == [b"abcd"]


def test_a_chunk_that_contradicts_its_message_drops_it() -> None:
    target = reassembler()
    feed(target, chunks(b"abcd", 2, message_id=1)[0])
    with pytest.raises(WireError, match="chunk 1 of message 1 contradicts"):
        feed(target, chunks(b"abcdef", 2, message_id=1)[1])
    assert target.bytes_in_progress == 0


def test_the_number_of_received_chunks_is_told() -> None:
    target = reassembler()
    pieces = [parse(piece) for piece in chunks(b"abcdef", 2)]
    assert [target.add(piece) for piece in (pieces[2], pieces[0], pieces[0])] == [Placed(1), Placed(2), Placed(0)]
    assert target.add(pieces[1]) == Placed(3, b"abcdef")

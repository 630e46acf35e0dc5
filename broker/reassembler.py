"""Puts chunks together again: one bounded state machine per sender, without sockets and clocks."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.errors import WireError
from broker.room import Room
from broker.wire import Buffer, Envelope

RETIRED = 16
"""How many former boots of a sender are remembered."""


class Placed(NamedTuple):
    """What a chunk did: chunks of its message received so far (0: dropped as a repetition), the body when complete."""

    received: int
    body: Buffer | None = None


@dataclass(slots=True)
class _Partial:
    """A message of several chunks; they lie where they belong in `body`, so that nothing is joined at the end."""

    message_type: int
    count: int
    total: int
    body: memoryview
    chunk_bytes: int = 0  # the length of every chunk but the last, once one of those has come
    size: int = 0
    first: int = 0  # the first chunk that is missing
    later: set[int] = field(default_factory=set)  # chunks behind it that are here
    odd: dict[int, memoryview] = field(default_factory=dict)  # chunks that have another length, or came too early

    def __contains__(self, index: int) -> bool:
        return index < self.first or index in self.later

    @property
    def received(self) -> int:
        """Chunks that are here."""
        return self.first + len(self.later)

    def place(self, index: int, chunk: memoryview) -> None:
        """Take a chunk that has not come before."""
        last = index == self.count - 1
        if not self.chunk_bytes and not last and (self.count - 1) * len(chunk) < self.total <= self.count * len(chunk):
            self.chunk_bytes = len(chunk)
        start = index * self.chunk_bytes
        if self.chunk_bytes and len(chunk) == min(self.chunk_bytes, self.total - start):
            self.body[start : start + len(chunk)] = chunk
        else:
            self.odd[index] = chunk
        self.size += len(chunk)
        self.later.add(index)
        while self.first in self.later:
            self.later.remove(self.first)
            self.first += 1

    def joined(self) -> Buffer:
        """The whole body."""
        if not self.odd:
            return self.body
        size = self.chunk_bytes
        pieces = (self.odd.get(index, self.body[index * size : (index + 1) * size]) for index in range(self.count))
        return b"".join(pieces)

    def ranges(self) -> list[int]:
        """First and last index of every run of chunks that are here, ascending."""
        found = [0, self.first - 1] if self.first else []
        for index in sorted(self.later):
            if found and found[-1] == index - 1:
                found[-1] = index
            else:
                found += (index, index)
        return found


class _Seen:
    """The ids of completed messages: the newest `limit` exactly, and everything up to the oldest forgotten one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: OrderedDict[int, None] = OrderedDict()
        self._floor = -1

    def __contains__(self, message_id: int) -> bool:
        return message_id <= self._floor or message_id in self._ids

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def add(self, message_id: int) -> None:
        self._ids[message_id] = None
        if len(self._ids) > self._limit:
            self._floor = max(self._floor, self._ids.popitem(last=False)[0])


class _Past(NamedTuple):
    """What is remembered of a boot that another one has replaced."""

    newest: int
    seen: dict[int, _Seen]


class Reassembler:
    """Puts the chunks of one sender together, in any order, dropping what it has seen.

    Bounded by the declared lengths, checked before memory is taken: a message is at most `max_message_bytes`, all
    partial messages together at most `max_bytes` and `max_messages`; to stay within them the oldest partial message,
    which lost a chunk, is given up and counted. All senders share a `room`; `robbed` is called when another's message
    has taken the place of one of this sender, which then has to come again. A message is known by (boot, type, id); ids
    rise, and the newest `remembered` completed ones of each type are kept for comparison. A new boot drops the old
    one's partial messages; what still comes of the old one is dropped, unless a new message of a type that `returns`
    says that it is back, as happens where two processes have one name.
    """

    def __init__(
        self,
        max_message_bytes: int,
        max_bytes: int,
        max_messages: int = 8,
        remembered: int = 1024,
        room: Room | None = None,
        robbed: Callable[[], None] = lambda: None,
        returns: Container[int] = (),
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_bytes = max(max_bytes, max_message_bytes)
        self._max_messages = max_messages
        self._remembered = remembered
        self._room = room if room is not None else Room(self._max_bytes)
        self._robbed = robbed
        self.boot: int | None = None  # the sender's process
        self._newest = -1  # its largest message id
        self._returns = returns
        self._retired: OrderedDict[int, _Past] = OrderedDict()
        self._partial: OrderedDict[int, _Partial] = OrderedDict()
        self._seen: dict[int, _Seen] = {}
        self.bytes_in_progress = 0
        self.duplicates = 0  # chunks that had come before
        self.stale = 0  # chunks of a boot that a newer one has replaced
        self.abandoned = 0  # partial messages given up

    def add(self, envelope: Envelope) -> Placed:
        """Take one chunk; WireError when it contradicts its message or the limits, which drops that message."""
        if not self._current(envelope):
            self.stale += 1
            return Placed(0)
        seen = self._seen.setdefault(envelope.message_type, _Seen(self._remembered))
        partial = self._partial.get(envelope.message_id)
        if envelope.message_id in seen or (partial is not None and envelope.index in partial):
            self.duplicates += 1
            return Placed(0)
        if envelope.total > self._max_message_bytes:
            seen.add(envelope.message_id)  # so that its sender does not keep it for ever
            raise WireError(f"a message of {envelope.total} bytes is over the limit of {self._max_message_bytes}")
        if envelope.count == 1 and partial is None:
            seen.add(envelope.message_id)
            return Placed(1, envelope.chunk)
        if partial is None:
            partial = self._begin(envelope)
        self._room.touch((self, envelope.message_id))
        self._place(partial, envelope)
        received = partial.received
        if received < partial.count:
            return Placed(received)
        self._drop(envelope.message_id)
        seen.add(envelope.message_id)
        return Placed(received, partial.joined())

    def done(self, envelope: Envelope) -> bool:
        """Whether nothing more is wanted of the message of a chunk: it is complete, or too large."""
        return envelope.boot == self.boot and envelope.message_id in self._seen.get(envelope.message_type, ())

    def complete(self, message_types: Container[int]) -> list[int]:
        """The ids of the remembered complete messages of these types, ascending."""
        return sorted(number for kind, seen in self._seen.items() if kind in message_types for number in seen)

    def partial(self, message_types: Container[int]) -> list[list[int]]:
        """Of every partial message of these types its id, then first and last index of each run of chunks."""
        return [
            [message_id, *partial.ranges()]
            for message_id, partial in self._partial.items()
            if partial.message_type in message_types
        ]

    def _current(self, envelope: Envelope) -> bool:
        boot, message_id = envelope.boot, envelope.message_id
        if boot != self.boot:
            past = self._retired.get(boot, _Past(-1, {}))
            if boot in self._retired and (envelope.message_type not in self._returns or message_id <= past.newest):
                return False
            if self.boot is not None:
                self._retired[self.boot] = _Past(self._newest, self._seen)
            self._give_up_all()
            self._retired.pop(boot, None)
            if len(self._retired) > RETIRED:
                self._retired.popitem(last=False)
            self.boot, self._newest, self._seen = boot, past.newest, past.seen
        self._newest = max(self._newest, message_id)
        return True

    def forget(self) -> None:
        """Give up all partial messages, and remember nothing."""
        self._give_up_all()
        self._seen.clear()
        self._retired.clear()

    def _give_up_all(self) -> None:
        self.abandoned += len(self._partial)
        for message_id in list(self._partial):
            self._drop(message_id)

    def _begin(self, envelope: Envelope) -> _Partial:
        while self._partial and (
            len(self._partial) >= self._max_messages or self.bytes_in_progress + envelope.total > self._max_bytes
        ):
            self._drop(next(iter(self._partial)))
            self.abandoned += 1
        # Pages that nothing was written to take no memory, whatever length a sender declares.
        try:
            body = memoryview(mmap.mmap(-1, envelope.total))
        except OSError as error:
            raise WireError(f"no memory for a message of {envelope.total} bytes: {error}") from None
        message_id = envelope.message_id
        self._room.take((self, message_id), envelope.total, lambda: self._give_up(message_id))
        partial = _Partial(envelope.message_type, envelope.count, envelope.total, body)
        self._partial[envelope.message_id] = partial
        self.bytes_in_progress += envelope.total
        return partial

    def _place(self, partial: _Partial, envelope: Envelope) -> None:
        expected = (partial.message_type, partial.count, partial.total)
        size = partial.size + len(envelope.chunk)
        missing = partial.count - partial.received - 1
        sound = size == partial.total if not missing else size + missing <= partial.total
        if (envelope.message_type, envelope.count, envelope.total) != expected or not sound:
            self._drop(envelope.message_id)
            self.abandoned += 1
            raise WireError(f"chunk {envelope.index} of message {envelope.message_id} contradicts the chunks before")
        partial.place(envelope.index, envelope.chunk)

    def _drop(self, message_id: int) -> None:
        self.bytes_in_progress -= self._partial.pop(message_id).total
        self._room.release((self, message_id))

    def _give_up(self, message_id: int) -> None:
        self._drop(message_id)
        self.abandoned += 1
        self._robbed()

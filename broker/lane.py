"""All that goes to one peer on one topic: messages in their order, kept for as long as the peer may have lost some.

QoS 1 is hop by hop: a chunk that the broker acknowledged is lost when the broker dies, or when the receiver loses its
connection. So messages are kept until the receiver says that it has them, and no more than `limit` bytes go out without
such a word. No clock, no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from broker.credit import UNCONFIRMED_BYTES
from broker.errors import BrokerError
from broker.transfer import Transfer, held_count


class Lane:
    """Where nothing is `confirmed`, a message is given up as soon as the broker has it."""

    def __init__(self, bulk: bool, confirmed: bool, limit: int = UNCONFIRMED_BYTES) -> None:
        self.bulk = bulk
        self.confirmed = confirmed
        self.limit = limit
        self.moved_at = 0.0  # when something was acknowledged or confirmed, or the first message came
        self._kept: dict[int, Transfer] = {}  # by message id, oldest first; those under way among them
        self._work: deque[Transfer] = deque()  # oldest first; those of which chunks are left
        self._unconfirmed = 0  # weight of what was handed over and is kept
        self._under_way = 0  # bytes that the broker has not acknowledged

    def add(self, transfer: Transfer, now: float) -> None:
        """Take a message behind all others."""
        if not self._work:
            self.moved_at = now
        self._kept[transfer.message_id] = transfer
        self._work.append(transfer)

    def next(self) -> tuple[Transfer, int] | None:
        """The next chunk that may be handed over now, as (message, index)."""
        while self._work and not self._work[0].left:
            self._work.popleft()
        if not self._work:
            return None
        transfer = self._work[0]
        if self._crowded(transfer) or (not transfer.again and self._full(transfer)):
            return None
        before = transfer.weight
        index = transfer.next()
        if index is None:
            return None
        self._unconfirmed += transfer.weight - before
        self._under_way += transfer.size(index)
        return transfer, index

    def awaited(self, transfer: Transfer) -> str:
        """What a message of this lane waits for, unless it is for the broker."""
        head = self._work[0] if self._work else transfer
        if self._under_way or head.pending or transfer.pending:
            return ""
        if not head.credited:
            return "a credit"
        return "word of what has arrived" if self._full(head) else ""

    @property
    def stuck(self) -> bool:
        """Whether nothing can go on without word of what has arrived."""
        head = self._work[0] if self._work else None
        return head is not None and not self._under_way and not head.again and self._full(head)

    def landed(self, transfer: Transfer, index: int) -> None:
        """A chunk is under way no more: the broker has it, or it was withdrawn."""
        self._under_way -= transfer.size(index)
        transfer.landed(index)

    def acknowledged(self, transfer: Transfer, now: float) -> None:
        """A chunk was acknowledged by the broker; a message of which it was the last is done."""
        self.moved_at = now
        if not transfer.left and not transfer.pending:
            transfer.settle()
            if not self.confirmed and transfer.message_id in self._kept:
                self._drop(transfer.message_id)

    def credit(self, message_id: int, chunks: int, now: float) -> None:
        """The receiver has so many chunks of a message."""
        transfer = self._kept.get(message_id)
        if transfer is not None:
            before = transfer.weight
            if transfer.confirm(chunks, now):
                self._unconfirmed += transfer.weight - before
                self.moved_at = now

    def held(self, resume: bool, complete: Iterable[int], partial: Iterable[list[int]], now: float) -> None:
        """What the receiver has; with `resume`, the rest of what was handed over goes out again, unless under way."""
        for message_id in complete:
            if message_id in self._kept:
                self._have(self._drop(message_id))
                self.moved_at = now
        runs = {message_id: bounds for message_id, *bounds in partial}
        for message_id, bounds in runs.items():
            self.credit(message_id, held_count(bounds), now)
        if resume:
            self.repeat(runs)

    def repeat(self, runs: dict[int, list[int]] | None = None) -> None:
        """Send again all that is kept and not under way, but for what is in `runs` by message id."""
        for message_id, transfer in self._kept.items():
            transfer.repeat((runs or {}).get(message_id, ()))
        self._find_work()

    def once_more(self, transfer: Transfer, index: int) -> None:
        """Send one chunk again, if the message is still kept."""
        if transfer.message_id in self._kept and index not in transfer.again:
            transfer.again.append(index)
            self._find_work()

    def doubt(self) -> None:
        """The receiver has connected again, and may have lost what is under way."""
        for transfer in self._kept.values():
            transfer.doubt()
        self._find_work()

    def remove(self, transfer: Transfer, error: BaseException | None = None) -> None:
        """Give a message up, which is no progress of the others."""
        if transfer.message_id in self._kept:
            self._drop(transfer.message_id)
        if transfer in self._work:
            self._work.remove(transfer)
        transfer.settle(error)

    def clear(self, error: BaseException | None = None) -> None:
        """Give everything up."""
        for transfer in (*self._kept.values(), *self._work):
            transfer.settle(error)
        self._kept.clear()
        self._work.clear()
        self._unconfirmed = 0

    def _drop(self, message_id: int) -> Transfer:
        transfer = self._kept.pop(message_id)
        self._unconfirmed -= transfer.weight
        return transfer

    def _have(self, transfer: Transfer) -> None:
        """The receiver wants nothing more of a message; where chunks are left, because it is too large for it."""
        if transfer.sent < transfer.count:
            self._work.remove(transfer)
            transfer.settle(BrokerError(f"{transfer.peer} refused {transfer}"))
        else:
            transfer.settle()

    def _find_work(self) -> None:
        self._work = deque(transfer for transfer in self._kept.values() if transfer.left)

    def _crowded(self, transfer: Transfer) -> bool:
        """Whether the next chunk would be more than a window; however many messages have a part in that."""
        window = transfer.window * transfer.cut.chunk_bytes
        return self._under_way > 0 and self._under_way + transfer.largest > window

    def _full(self, transfer: Transfer) -> bool:
        if not self.confirmed:
            return False
        windows = 2 * transfer.cut.window * transfer.cut.chunk_bytes
        return self._unconfirmed >= (self.limit if self.limit < UNCONFIRMED_BYTES else max(self.limit, windows))

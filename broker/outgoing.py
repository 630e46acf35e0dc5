"""The sending half of a channel's end: encoding, cutting, pacing and counting, whatever the transport is."""

from __future__ import annotations

import asyncio
import functools
import itertools
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from broker import messages, wire
from broker.channel import ChannelConfig, Count
from broker.chunk_size import Cut, choose
from broker.credit import UNCONFIRMED_BYTES, stride
from broker.errors import BrokerError, DeadlineError, WireError
from broker.lane import Lane
from broker.messages import Credit, DownHeld, Message, Metrics, Share, State, UpHeld
from broker.progress import LOOKS, Progress
from broker.rate import Rate
from broker.slots import Slots
from broker.topics import SERVER, Topic, check_name
from broker.transfer import Transfer

BULK = ("up", "down")
DOWNWARD = ("down", "cmd")
OWN = (State, Metrics, Credit, UpHeld, DownHeld, Share)
"""Messages that no receiver confirms; all others are kept until it does."""
AGAIN_S = 1.0  # after this time, what nobody waits for any more is sent again where the broker refused it
PATIENCE = 0.25  # of the deadline: how long an agent waits for word of what has arrived before it asks for it


@dataclass(frozen=True, slots=True)
class Chunk:
    """One MQTT message on its way out; `bulk` goes behind all that is none."""

    topic: str
    kind: str
    header: bytes
    body: memoryview
    qos: int
    retain: bool
    bulk: bool = False

    @property
    def payload(self) -> bytes:
        return b"".join((self.header, self.body))


class Outgoing(ABC):
    """`send` over `_publish`, which hands one chunk to the transport."""

    measures = True  # whether chunks are cut by the rate of the transport
    largest_chunk = 1 << 24  # what the transport takes

    def __init__(self, run: str, name: str, config: ChannelConfig) -> None:
        self.run = check_name(run, "run")
        self.name = check_name(name, "client")
        self.config = config
        self.boot = secrets.randbits(32)
        self.sent: dict[str, Count] = {}
        self._ids = itertools.count(1)
        # Control has slots of its own, so that it never waits behind bulk.
        self._slots = {True: Slots(config.window), False: Slots(config.window)}
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._rates: dict[str, Rate] = {}
        self._limit = UNCONFIRMED_BYTES  # how much may go to one peer on one topic without word of it
        self._patience: dict[Lane, asyncio.TimerHandle] = {}
        self._failure: BrokerError | None = None

    @abstractmethod
    def _publish(self, chunk: Chunk) -> asyncio.Future[None]:
        """Hand a chunk to the transport; done when it is acknowledged. Cancelling it withdraws the chunk."""

    @abstractmethod
    def _announce(self) -> None:
        """Say that this end is here, which its peers answer with what they have of it."""

    def _sent_bytes(self, chunks: Collection[asyncio.Future[None]]) -> int:
        """How many bytes of these chunks, which are under way, have left this machine."""
        return 0

    async def send(self, peer: str, message: Message) -> int:
        """See `Channel.send`."""
        kind = type(message)
        topic = self._topic(peer, kind)
        body = messages.encode(message)
        if len(body) > self.config.max_message_bytes:
            raise WireError(
                f"{kind.__name__} of {len(body)} bytes is over the limit of {self.config.max_message_bytes}"
            )
        if self._failure is not None:
            raise self._failure
        lane = self._lane(peer, kind.channel)
        transfer = self._transfer(peer, topic, kind, body)
        lane.add(transfer, time.monotonic())
        self._go_on(lane)
        try:
            await self._finished(lane, transfer)
        except BaseException:
            lane.remove(transfer)
            self._go_on(lane)
            raise
        self.sent[kind.__name__].messages += 1
        return len(body)

    def _send_at_once(self, peer: str, message: Message) -> None:
        """Send a message of one chunk that is not kept, without waiting for slots or for its acknowledgement."""
        kind, body = type(message), messages.encode(message)
        topic = str(self._topic(peer, kind))
        self._hand_over(kind, topic, *wire.cut(kind.code, self.boot, next(self._ids), body, wire.USUAL_BYTES, 0))
        self.sent[kind.__name__].messages += 1

    def _topic(self, peer: str, kind: type[Message]) -> Topic:
        downward = kind.channel in DOWNWARD
        if self.name != SERVER and peer != SERVER:
            raise WireError(f"an agent sends to the server only, not to {peer!r}")
        if kind.channel != "state" and downward != (self.name == SERVER):
            raise WireError(f"{self.name} cannot send {kind.__name__}, which travels on {kind.channel}")
        return Topic(self.run, peer if downward else self.name, kind.channel)

    def _lane(self, peer: str, channel: str) -> Lane:
        if (peer, channel) not in self._lanes:
            self._lanes[(peer, channel)] = Lane(channel in BULK, channel not in ("state", "metrics"), self._limit)
        return self._lanes[(peer, channel)]

    def _lanes_to(self, peer: str) -> Iterator[Lane]:
        """What goes to a peer and is confirmed by it."""
        return (lane for (name, _), lane in self._lanes.items() if name == peer and lane.confirmed)

    def _transfer(self, peer: str, topic: Topic, kind: type[Message], body: bytes) -> Transfer:
        config, rate = self.config, self._rates.setdefault(peer, Rate())
        if config.chunk_bytes:
            cut, keepalive_s = Cut(min(config.chunk_bytes, self.largest_chunk), config.window), 0
        else:
            keepalive_s = config.keepalive_s
            largest = min(self.largest_chunk, max(wire.USUAL_BYTES, self._limit // 4))
            cut = choose(len(body), rate.per_s, rate.lately, config.window, keepalive_s, largest)
        count = wire.chunk_count(len(body), cut.chunk_bytes)
        if count > wire.MAX_CHUNKS:
            raise WireError(f"{kind.__name__} of {len(body)} bytes are {count} chunks, more than {wire.MAX_CHUNKS}")
        credit = stride(kind.channel, count, cut.window)
        measured = rate if self.measures and kind.channel in BULK else None
        number, done = next(self._ids), asyncio.get_running_loop().create_future()
        return Transfer(
            peer, str(topic), kind, self.boot, number, body, cut, credit, done, measured, keepalive_s, config.window
        )

    def _go_on(self, lane: Lane) -> None:
        """Hand over all that can be handed over now that something has changed for a lane."""
        slots = self._slots[lane.bulk]
        slots.ask(lane)
        while (step := slots.take()) is not None:
            chosen, transfer, index = step
            header, body = transfer.chunk(index, time.monotonic())
            future = self._hand_over(transfer.kind, transfer.topic, header, body)
            transfer.pending.add(future)
            slots.under_way.add(future)
            future.add_done_callback(functools.partial(self._acknowledged, chosen, transfer, index))
        # A server would have all its agents answer.
        if self.name != SERVER and lane.stuck and lane not in self._patience:
            later = asyncio.get_running_loop().call_later
            self._patience[lane] = later(self.config.timeout_s * PATIENCE, self._ask, lane, lane.moved_at)

    def _ask(self, lane: Lane, moved_at: float) -> None:
        """Have a word repeated that seems to be lost."""
        del self._patience[lane]
        if lane.stuck and lane.moved_at == moved_at:
            self._announce()
        else:
            self._go_on(lane)

    def _hand_over(self, kind: type[Message], topic: str, header: bytes, body: memoryview) -> asyncio.Future[None]:
        qos, retain = int(kind.channel != "metrics"), kind.channel == "state"
        add_chunk(self.sent, kind.__name__, len(body))
        return self._publish(Chunk(topic, kind.__name__, header, body, qos, retain, kind.channel in BULK))

    def _acknowledged(self, lane: Lane, transfer: Transfer, index: int, future: asyncio.Future[None]) -> None:
        now, slots = time.monotonic(), self._slots[lane.bulk]
        transfer.pending.discard(future)
        lane.landed(transfer, index)
        slots.give_back(future)
        if not future.cancelled():
            if (error := future.exception()) is not None:
                if not transfer.done.done():
                    lane.remove(transfer, error)
                elif self._failure is None:  # `send` has returned, and yet the receiver may lack this
                    asyncio.get_running_loop().call_later(AGAIN_S, self._repeat, lane, transfer, index)
            else:
                slots.acknowledged_at = now
                if self.name != SERVER:  # the broker is as near to the server as it likes, and tells nothing of agents
                    transfer.arrived([index], now)
                lane.acknowledged(transfer, now)
        self._go_on(lane)

    def _repeat(self, lane: Lane, transfer: Transfer, index: int) -> None:
        lane.once_more(transfer, index)
        self._go_on(lane)

    async def _finished(self, lane: Lane, transfer: Transfer) -> None:
        """Wait until a message is done; DeadlineError when nothing moves for `timeout_s`."""
        limit, slots, now = self.config.timeout_s, self._slots[lane.bulk], time.monotonic()
        progress = Progress(now, slots.freed, self._sent_bytes(slots.under_way))
        while not transfer.done.done():
            awaited = lane.awaited(transfer)
            acknowledged_at, sent = 0.0, 0
            if not awaited:
                acknowledged_at, sent = slots.acknowledged_at, self._sent_bytes(slots.under_way)
            moved = progress.look(now, max(lane.moved_at, acknowledged_at), slots.freed, sent)
            left = moved + limit - now
            if left <= 0:
                raise DeadlineError(
                    f"{transfer.peer}: no progress for {limit:g} s with {transfer}: "
                    f"awaited {awaited or 'an acknowledgement of the broker'}"
                )
            await asyncio.wait([transfer.done], timeout=min(left, limit / LOOKS))
            now = time.monotonic()
        transfer.done.result()

    def _give_up_sending(self, error: BrokerError) -> None:
        """Whoever sends gets the error."""
        self._failure = error
        self._clear_lanes(error)

    def _clear_lanes(self, error: BrokerError) -> None:
        for timer in self._patience.values():
            timer.cancel()
        self._patience.clear()
        for lane in self._lanes.values():
            lane.clear(error)


def add_chunk(counts: dict[str, Count], kind: str, size: int) -> Count:
    """Count one more chunk of `size` bytes, and its envelope."""
    count = counts.setdefault(kind, Count())
    count.chunks += 1
    count.body_bytes += size
    count.envelope_bytes += wire.HEADER.size
    return count

"""One end of a channel without its transport: what `outgoing` sends, and here what arrives.

MQTT and memory both derive from it, hence the same messages make the same envelopes, chunks, credits and counts. When
an end tells the other what has arrived, and what goes out again then, is said in docs/wire-format.md.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from broker import messages, wire
from broker.arrivals import Arrivals
from broker.channel import ChannelConfig, Count, Malformed
from broker.credit import UNCONFIRMED_BYTES, due, share, word_after
from broker.errors import BrokerError, VersionError, WireError
from broker.inbox import Inbox, Item
from broker.messages import MESSAGES, Credit, DownHeld, Message, Share, State, UpHeld
from broker.outgoing import OWN, Outgoing, add_chunk
from broker.room import Room
from broker.topics import SERVER, Topic

log = logging.getLogger(__name__)

MAX_SENDERS = 4096
ROOM = 16  # largest messages that may come at the same time, from all senders together

_CONFIRMED = {code for code, kind in MESSAGES.items() if kind not in OWN}


class Endpoint(Outgoing):
    """Implements `Channel` over `_publish` (hand one chunk to the transport) and `_feed` (a chunk has arrived)."""

    def __init__(self, run: str, name: str, config: ChannelConfig) -> None:
        super().__init__(run, name, config)
        self.received: dict[str, Count] = {}
        self.last_heard: dict[str, float] = {}
        self._boots: dict[str, int] = {}
        self._online: set[str] = set()
        self._entered = False
        self._share = UNCONFIRMED_BYTES  # what each agent has been told
        self._told: set[str] = set()  # who has been told less than what agents take for granted
        self._allowed_by: int | None = None  # the process of the server that told it
        self._arrivals: OrderedDict[str, Arrivals] = OrderedDict()  # whoever was heard last comes last
        self._room = Room(ROOM * config.max_message_bytes)
        self._inbox = Inbox(config.inbox)
        self._returned = False  # this end lost its connection and made another

    @abstractmethod
    async def _open(self) -> None:
        """Connect, subscribe and announce this end."""

    @abstractmethod
    async def _close(self, clean: bool) -> None:
        """Disconnect; when not clean, so that the last will is published."""

    async def __aenter__(self) -> Self:
        await self._open()
        self._entered = True
        self._share_out(sorted(self._online))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear_lanes(BrokerError(f"{self.name} has left"))
        await self._close(clean=kind is None)

    async def receive(self) -> Item:
        """See `Channel.receive`."""
        return await self._inbox.get()

    def _fail(self, error: BrokerError) -> None:
        """The transport is gone for good: whoever sends or receives gets the error."""
        self._inbox.fail(error)
        self._give_up_sending(error)

    def _feed(self, topic: str, payload: wire.Buffer, acknowledge: Callable[[], None] | None) -> None:
        """Take one chunk from the transport; `acknowledge` is called when there is room for what it completed."""
        self._inbox.put(self._take(topic, payload), acknowledge)

    def _take(self, name: str, payload: wire.Buffer) -> Item | None:
        try:
            topic = Topic.parse(name)
        except VersionError as error:
            return name.split("/")[3], Malformed(str(error), version_mismatch=True)
        except WireError as error:
            log.warning("%s", error)
            return None
        sender = topic.client if self.name == SERVER else SERVER
        if topic.channel == "state" and topic.client == self.name:
            return None
        try:
            return self._handle(sender, topic, payload)
        except WireError as error:
            return sender, Malformed(str(error), isinstance(error, VersionError))
        except Exception as error:  # what one peer says must not cost the connection to all of them
            log.exception("%s: a chunk from %s", self.name, sender)
            return sender, Malformed(f"{type(error).__name__}: {error}")

    def _handle(self, sender: str, topic: Topic, payload: wire.Buffer) -> Item | None:
        match self._assemble(sender, topic, payload):
            case None:
                return None
            case Credit() as credit:
                lane = self._lane(sender, "down")
                lane.credit(credit.message, credit.chunks, time.monotonic())
                self._go_on(lane)
                return None
            case UpHeld() | DownHeld() as word:
                self._peer_has(sender, word)
                return None
            case Share() as allowed:
                self._allowed_by = self._arrivals[sender].boot
                self._allow(allowed.limit)
                return None
            case State() as state:
                self._peer_state(sender, state)
                return sender, state
            case message:
                return sender, message

    def _assemble(self, sender: str, topic: Topic, payload: wire.Buffer) -> Message | None:
        envelope = wire.parse(payload)
        kind = MESSAGES.get(envelope.message_type)
        if kind is None or kind.channel != topic.channel:
            raise WireError(f"message type {envelope.message_type} does not travel on {topic.channel}")
        count = add_chunk(self.received, kind.__name__, len(envelope.chunk))
        arrivals = self._arrivals_from(sender)
        self.last_heard[sender] = time.monotonic()
        try:
            placed = arrivals.add(envelope)
        except WireError:
            self._tell(sender, resume=False)  # or else its sender would wait for a credit, or keep it for ever
            raise
        # Outside the slots, because the sender's window bounds how many of them can be outstanding.
        if self.name != SERVER and due(envelope.credit, placed.received, envelope.count):
            self._send_at_once(sender, Credit(envelope.message_id, placed.received))
        if arrivals.due(word_after(self._share)):
            self._tell(sender, resume=False)
        if placed.body is None:
            return None
        count.messages += 1
        return messages.decode(envelope.message_type, placed.body)

    # Whom this end knows.

    def _arrivals_from(self, sender: str) -> Arrivals:
        arrivals = self._arrivals.get(sender)
        if arrivals is None:
            if len(self._arrivals) >= MAX_SENDERS:
                self._make_place_for(sender)
            limit = self.config.max_message_bytes
            arrivals = Arrivals(limit, _CONFIRMED, self._room, lambda: self._tell(sender, resume=True))
            self._arrivals[sender] = arrivals
        self._arrivals.move_to_end(sender)
        return arrivals

    def _make_place_for(self, sender: str) -> None:
        """Forget the peer that was not heard for longest, of those that are not online."""
        gone = next((name for name in self._arrivals if name not in self._online), None)
        if gone is None:
            raise WireError(f"{sender} is one sender more than the {MAX_SENDERS} allowed")
        self._arrivals.pop(gone).forget()
        for lane in self._lanes_to(gone):
            lane.clear(BrokerError(f"{gone} was forgotten"))
        for key in [key for key in self._lanes if key[0] == gone]:
            del self._lanes[key]
        for known in (self._boots, self._rates, self.last_heard):
            known.pop(gone, None)
        self._told.discard(gone)

    # How much agents may send at the same time, of which the broker holds what the server does not read.

    def _share_out(self, newcomers: Iterable[str]) -> None:
        """Tell agents how much each may send: the new ones, or all where their number has changed it."""
        if self.name != SERVER or not self._entered:
            return
        before, self._share = self._share, share(len(self._online))
        if before != self._share:
            newcomers = sorted(self._online)
        elif self._share == UNCONFIRMED_BYTES:  # which others than those who were away since then take for granted
            newcomers = [name for name in newcomers if name in self._told]
        for name in newcomers:
            self._send_at_once(name, Share(self._share))
            (self._told.discard if self._share == UNCONFIRMED_BYTES else self._told.add)(name)

    def _allow(self, limit: int) -> None:
        self._limit = limit
        for lane in list(self._lanes.values()):
            lane.limit = limit
            self._go_on(lane)

    # What ends tell each other about losses.

    def _peer_state(self, peer: str, state: State) -> None:
        online = state.status == "online"
        (self._online.add if online else self._online.discard)(peer)
        if online:
            self._peer_is_here(peer, state.boot)
        self._share_out([peer] if online else [])

    def _peer_is_here(self, peer: str, boot: int) -> None:
        known = self._boots.get(peer)
        self._boots[peer] = boot
        for lane in list(self._lanes_to(peer)):
            if known not in (None, boot):
                # A new process knows nothing of what was said to the old one, and confirms nothing of it.
                lane.clear()
            else:
                lane.doubt()
                if known is None:
                    lane.repeat()
            self._go_on(lane)
        if self._allowed_by not in (None, boot):
            self._allow(UNCONFIRMED_BYTES)
        if known == boot or (known is None and self._returned):
            self._tell(peer, resume=True)

    def _announce(self) -> None:
        kind, body = State, messages.encode(State("online", self.boot))
        lane = self._lane(SERVER, kind.channel)
        lane.add(self._transfer(SERVER, self._topic(SERVER, kind), kind, body), time.monotonic())
        self._go_on(lane)
        self.sent[kind.__name__].messages += 1

    def _tell(self, peer: str, resume: bool) -> None:
        """Tell a peer what has come from it; with `resume` it sends the rest again."""
        arrivals = self._arrivals.get(peer)
        boot = arrivals.boot if arrivals is not None else None
        kind = UpHeld if self.name == SERVER else DownHeld
        complete, partial = arrivals.word(resume) if arrivals is not None else ([], [])
        self._send_at_once(peer, kind(self._boots.get(peer, 0) if boot is None else boot, resume, complete, partial))

    def _peer_has(self, peer: str, word: UpHeld | DownHeld) -> None:
        if word.boot == self.boot:
            for lane in list(self._lanes_to(peer)):
                lane.held(word.resume, word.complete, word.partial, time.monotonic())
                self._go_on(lane)

    def _tell_all(self) -> None:
        """This end is back on a new connection: what came to the old one last may be lost."""
        self._returned = True
        for peer in {*self._boots, *self._arrivals}:
            self._tell(peer, resume=True)

"""Channels of one process: everything of MQTT's channels but the socket and the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker import messages, wire
from broker.channel import ChannelConfig
from broker.endpoint import Endpoint
from broker.errors import ConnectError
from broker.messages import State
from broker.outgoing import Chunk
from broker.topics import SERVER, Topic


class MemoryHub:
    """Stands for the broker: routes chunks between the channels of one event loop and keeps the retained states."""

    def __init__(self, config: ChannelConfig | None = None) -> None:
        self.config = config or ChannelConfig()
        self._online: dict[tuple[str, str], MemoryChannel] = {}
        self._retained: dict[str, bytes] = {}

    def agent(self, name: str, run: str) -> MemoryChannel:
        """The channel of one agent, to be entered with `async with`."""
        return MemoryChannel(self, run, name)

    def server(self, run: str) -> MemoryChannel:
        """The channel of the run's server."""
        return MemoryChannel(self, run, SERVER)

    def publish(self, topic: str, payload: bytes, retain: bool, acknowledge: Callable[[], None]) -> None:
        """Pass a chunk to the channels that would have subscribed to its topic, in the order of the calls.

        Acknowledged when its receiver has room, at once where there is none or more than one.
        """
        if retain:
            self._retained[topic] = payload
        receivers = [channel for channel in self._online.values() if channel.wants(topic)]
        soon = asyncio.get_running_loop().call_soon
        for channel in receivers:
            soon(channel.feed, topic, payload, acknowledge if len(receivers) == 1 else _nothing)
        if len(receivers) != 1:
            soon(acknowledge)

    def join(self, channel: MemoryChannel) -> None:
        """Let a channel take part; it gets the retained states first. ConnectError when its name is taken."""
        key = (channel.run, channel.name)
        if key in self._online:
            raise ConnectError(f"{channel.name} is already online in run {channel.run}")
        self._online[key] = channel
        for topic, payload in self._retained.items():
            if channel.wants(topic):
                channel.feed(topic, payload, _nothing)

    def online(self, channel: MemoryChannel) -> bool:
        """Whether this very channel takes part."""
        return self._online.get((channel.run, channel.name)) is channel

    def leave(self, channel: MemoryChannel) -> None:
        """Take a channel out."""
        self._online.pop((channel.run, channel.name), None)


class MemoryChannel(Endpoint):
    """A channel over a `MemoryHub`; implements `Channel`."""

    measures = False  # or else the bytes of a run would depend on the machine

    def __init__(self, hub: MemoryHub, run: str, name: str) -> None:
        super().__init__(run, name, hub.config)
        self._hub = hub

    def wants(self, topic: str) -> bool:
        """Whether this end would have subscribed to the topic."""
        where = Topic.parse(topic)
        if where.run != self.run:
            return False
        if self.name == SERVER:
            return where.channel not in ("down", "cmd")
        if where.client == self.name:
            return where.channel in ("down", "cmd")
        return where.client == SERVER and where.channel == "state"

    def feed(self, topic: str, payload: bytes, acknowledge: Callable[[], None]) -> None:
        """A chunk from the hub; one that was under way when this end left is lost, as it is with a broker."""
        if self._hub.online(self):
            self._feed(topic, payload, acknowledge)
        else:
            acknowledge()

    def _publish(self, chunk: Chunk) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._hub.publish(chunk.topic, chunk.payload, chunk.retain, lambda: _settle(future))
        return future

    async def _open(self) -> None:
        self._hub.join(self)
        await self.send(SERVER, State("online", self.boot))

    async def _close(self, clean: bool) -> None:
        self._hub.leave(self)
        self._inbox.release()
        offline = State("offline", self.boot)
        if clean:
            await self.send(SERVER, offline)
        else:
            [(header, body)] = wire.split(
                State.code, self.boot, next(self._ids), messages.encode(offline), wire.USUAL_BYTES
            )
            topic = str(self._topic(SERVER, State))
            self._hub.publish(topic, header + bytes(body), retain=True, acknowledge=_nothing)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _nothing() -> None:
    """Acknowledges to nobody."""

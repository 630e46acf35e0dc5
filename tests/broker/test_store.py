"""A broker with a store: what waits for the disk, what the file holds, and which files are refused."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.durable_registry import DurableRegistry
from broker.errors import ConnectError, SettingsError
from broker.packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.properties import Property
from broker.reasons import Reason
from broker.server import Broker, BrokerConfig
from broker.store import Store
from broker.store_file import APPLICATION, TABLES, VERSION
from tests.broker.raw import PATIENCE_S, RawClient, connected, open_client, publish, until
from tests.broker.serving import FOREVER, VERSIONS, kept, serving


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file of a broker that does not run."""
    with closing(sqlite3.connect(path)) as database, database:
        yield database


def rows(path: Path) -> dict[str, int]:
    """How many rows there are in each table that has any."""
    with opened(path) as database:
        counts = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
    return {table: count for table, count in counts.items() if count}


def modes(directory: Path) -> dict[str, int]:
    """Who may do what with each file."""
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


@asynccontextmanager
async def resumed(broker: Broker, name: str, version: int = V5) -> AsyncIterator[RawClient]:
    """A client that comes back to its session."""
    async with connected(broker.address, name, version, **kept(version)) as client:
        assert client.connack.session_present  # type: ignore[attr-defined]
        yield client


class Disk:
    """Commits pass while it is not stuck; `reached` is set when one has come to a stuck disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.reached = threading.Event(), threading.Event()
        self.free.set()
        write = Store._write

        def slow(store: Store, batch: dict[object, object]) -> None:
            if not self.free.is_set():
                self.reached.set()
                assert self.free.wait(PATIENCE_S)
            write(store, batch)  # type: ignore[arg-type]

        monkeypatch.setattr(Store, "_write", slow)


# What waits for the disk


@pytest.mark.parametrize(
    ("packets", "answer"),
    [
        ([publish("t", b"x", qos=1)], Puback),
        ([publish("t", b"x", qos=2)], Pubrec),
        ([Subscribe(1, (Request("u", 1),))], Suback),
        ([Unsubscribe(1, ("t",))], Unsuback),
    ],
)
@VERSIONS
def test_no_answer_leaves_before_its_commit(
    version: int, packets: list[Packet], answer: type[Packet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def scenario() -> None:
        async with (
            serving(store=str(tmp_path / "store")) as broker,
            connected(broker.address, "c", version, **kept(version)) as client,
            connected(broker.address, "watch") as watch,
        ):
            await client.subscribe("t", 1)
            await watch.subscribe("done")
            disk.free.clear()
            await client.send(*packets, Publish("done"), Pingreq())
            await watch.expect(Publish)  # so that all of it is handled
            await asyncio.to_thread(disk.reached.wait)
            receiving = asyncio.create_task(client.receive())
            await watch.send(Pingreq())
            await watch.expect(Pingresp)
            if isinstance(packets[0], Publish):
                assert isinstance(await receiving, Publish)  # a message may come before it is stored: at least once
                receiving = asyncio.create_task(client.receive())
                await watch.send(Pingreq())
                await watch.expect(Pingresp)
            assert not receiving.done()
            disk.free.set()
            assert isinstance(await receiving, answer)

    asyncio.run(scenario())


def test_a_message_of_qos_2_leaves_after_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)

    async def scenario() -> None:
        async with (
            serving(store=str(tmp_path / "store")) as broker,
            connected(broker.address, "c", **kept(V5)) as client,
            connected(broker.address, "p") as sender,
        ):
            await client.subscribe("t", 2)
            disk.free.clear()
            await sender.send(publish("t", b"x", qos=2))
            await asyncio.to_thread(disk.reached.wait)
            await client.send(Pingreq())
            await client.expect(Pingresp)
            disk.free.set()
            assert (await client.expect(Publish)).payload == b"x"
            disk.reached.clear()
            disk.free.clear()
            await client.send(Pubrec(1), Pingreq())
            receiving = asyncio.create_task(client.receive())
            await asyncio.to_thread(disk.reached.wait)
            await sender.expect(Pubrec)
            await sender.send(Pingreq())
            await sender.expect(Pingresp)
            assert not receiving.done()
            disk.free.set()
            assert await receiving == Pubrel(1)

    asyncio.run(scenario())


def test_a_message_that_came_and_went_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)

    async def scenario() -> None:
        async with (
            serving(store=str(tmp_path / "store")) as broker,
            connected(broker.address, "c", **kept(V5)) as client,
            connected(broker.address, "p") as sender,
        ):
            await client.subscribe("t", 1)
            disk.free.clear()
            await sender.send(publish("other", b"x", qos=1, retain=True))
            await asyncio.to_thread(disk.reached.wait)
            await sender.send(publish("t", b"x", qos=1, packet_id=2))
            await client.send(Puback((await client.expect(Publish)).packet_id), Pingreq())
            await client.expect(Pingresp)
            disk.free.set()
            assert [(await sender.expect(Puback)).packet_id for _ in range(2)] == [1, 2]

    asyncio.run(scenario())


def test_a_session_to_keep_is_welcomed_after_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)

    async def scenario() -> None:
        async with serving(store=str(tmp_path / "store")) as broker, open_client(broker.address) as client:
            disk.free.clear()
            await client.send(Connect("c", V5, properties=FOREVER))
            await asyncio.to_thread(disk.reached.wait)
            receiving = asyncio.create_task(client.receive())
            async with connected(broker.address, "fleeting") as other:  # nothing of it is stored
                await other.send(Pingreq())
                await other.expect(Pingresp)
            assert not receiving.done()
            # Who takes the client id over now ends a connection that was never welcomed: without a DISCONNECT.
            async with open_client(broker.address) as second:
                await second.send(Connect("c", V5, properties=FOREVER))
                assert await receiving is None
                disk.free.set()
                await second.expect(Connack)

    asyncio.run(scenario())


def test_an_id_that_the_client_keeps_holds_up_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def scenario() -> None:
        async with serving(store=str(path)) as broker, connected(broker.address, "p") as sender:
            async with connected(broker.address, "c", **kept(V5)) as client:
                await client.subscribe("t", 2)
                await sender.send(publish("t", b"kept", qos=2))
                await client.send(Pubrec((await client.expect(Publish)).packet_id))
                held = await client.expect(Pubrel)
                session = broker._registry.sessions["c"]
                session._last_id = held.packet_id - 1  # as after 65,535 messages
                await sender.send(publish("t", b"next", qos=2, packet_id=2))
                following = await client.expect(Publish)
                assert (following.payload, following.packet_id) == (b"next", held.packet_id + 1)
                # This one got its id while it was free.
                session._last_id = held.packet_id + 1
                session.receive_maximum = 2
                await sender.send(publish("t", b"last", qos=2, packet_id=3))
                await until(lambda: session.waiting == 1)
                session._released[held.packet_id + 2] = None
                session.receive_maximum = 4
                session.outlet.wake()
                last = await client.expect(Publish)
                assert (last.payload, last.packet_id) == (b"last", held.packet_id + 3)
                client.abort()
            await until(lambda: broker.snapshot()["open_connections"] == 1)
        async with serving(store=str(path)) as broker, resumed(broker, "c") as client:
            packets = [await client.receive() for _ in range(3)]
            assert packets[0] == Pubrel(held.packet_id)
            again = [packet for packet in packets if isinstance(packet, Publish)]
            expected = [(b"next", following.packet_id), (b"last", last.packet_id)]
            assert [(packet.payload, packet.packet_id) for packet in again] == expected

    asyncio.run(scenario())


def test_expired_messages_leave_the_file_when_their_room_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    soon = {Property.MESSAGE_EXPIRY: 1}

    async def scenario() -> None:
        settings = {"queue_bytes": 1_200, "retained_bytes": 600}
        async with serving(store=str(path), **settings) as broker, connected(broker.address, "p") as sender:
            async with connected(broker.address, "c", **kept(V5)) as client:
                await client.subscribe("t", 1)
            for number in (1, 2):
                await sender.send(publish("t", b"old", qos=1, packet_id=number, properties=soon))
                await sender.expect(Puback)
            await sender.send(publish("kept", b"old", qos=1, retain=True, packet_id=3, properties=soon))
            await sender.expect(Puback)
            broker._registry.router._clock = lambda: asyncio.get_running_loop().time() + 2
            for topic, retain in (("t", False), ("new", True)):
                await sender.send(publish(topic, b"fresh", qos=1, retain=retain))
                assert (await sender.expect(Puback)).reason < 0x80
        assert rows(path) == {"session": 1, "subscription": 1, "message": 2, "delivery": 1, "retained": 1}

    asyncio.run(scenario())


# What the file holds


def test_the_payload_is_stored_once_and_goes_with_the_last_acknowledgement(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def scenario() -> None:
        names = ("a", "b", "c")
        async with serving(store=str(path)) as broker, connected(broker.address, "p") as sender:
            for name in names:
                async with connected(broker.address, name, **kept(V5)) as client:
                    await client.subscribe("t", 1)
            await sender.send(publish("t", b"x" * 100, qos=1))
            await sender.expect(Puback)
        assert rows(path) == {"session": 3, "subscription": 3, "message": 1, "delivery": 3}
        async with serving(store=str(path)) as broker:
            for name in names:
                async with resumed(broker, name) as client:
                    message = await client.expect(Publish)
                    await client.send(Puback(message.packet_id), Pingreq())
                    await client.expect(Pingresp)
        assert rows(path) == {"session": 3, "subscription": 3}

    asyncio.run(scenario())


@VERSIONS
def test_qos_2_goes_on_where_it_was(version: int, tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def scenario() -> None:
        async with (
            serving(store=str(path)) as broker,
            connected(broker.address, "c", version, **kept(version)) as client,
        ):
            await client.subscribe("t", 2)
            await client.send(publish("t", b"zero", qos=1))
            done = [await client.receive() for _ in range(2)]
            await client.send(*(Puback(packet.packet_id) for packet in done if isinstance(packet, Publish)))
            await client.send(publish("t", b"one", qos=2, packet_id=7), publish("t", b"two", qos=2, packet_id=8))
            packets = [await client.receive() for _ in range(4)]
            sent = [packet for packet in packets if isinstance(packet, Publish)]
            await client.send(Pubrec(sent[0].packet_id))
            await client.expect(Pubrel)
        async with serving(store=str(path)) as broker, resumed(broker, "c", version) as client:
            assert await client.receive() == Pubrel(sent[0].packet_id)
            again = await client.expect(Publish)
            assert (again.packet_id, again.payload, again.dup) == (sent[1].packet_id, b"two", True)
            await client.send(publish("t", b"one", qos=2, packet_id=7, dup=True), Pubrel(7), Pubrel(8))
            assert isinstance(await client.receive(), Pubrec)
            assert [await client.receive() for _ in range(2)] == [Pubcomp(7), Pubcomp(8)]
            await client.send(Pubcomp(sent[0].packet_id), Pubrec(again.packet_id))
            await client.expect(Pubrel)
            await client.send(Pubcomp(again.packet_id), Pingreq())
            await client.expect(Pingresp)
        assert rows(path) == {"session": 1, "subscription": 1}

    asyncio.run(scenario())


def test_what_was_never_sent_comes_without_dup_and_expires(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def scenario() -> None:
        async with serving(store=str(path)) as broker, connected(broker.address, "p") as sender:
            async with connected(broker.address, "c", **kept(V5)) as client:
                await client.subscribe("t", 2)
            for payload in (b"late", b"good"):
                await sender.send(publish("t", payload, qos=2, properties={Property.MESSAGE_EXPIRY: 1000}))
                await sender.expect(Pubrec)
                await sender.send(Pubrel(1))
                await sender.expect(Pubcomp)
        with opened(path) as database:
            changed = database.execute("UPDATE message SET expires_at = 1 WHERE payload = ?", (b"late",))
            assert changed.rowcount == 1
        async with serving(store=str(path)) as broker, resumed(broker, "c") as client:
            message = await client.expect(Publish)
            assert (message.payload, message.dup) == (b"good", False)
            assert 900 < message.properties[Property.MESSAGE_EXPIRY] <= 1000
        assert rows(path) == {"session": 1, "subscription": 1, "message": 1, "delivery": 1}

    asyncio.run(scenario())


def test_options_and_identifiers_of_subscriptions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def scenario() -> None:
        async with serving(store=str(path)) as broker, connected(broker.address, "c", **kept(V5)) as client:
            request = Request("t", 1, retain_as_published=True, no_local=True)
            await client.send(Subscribe(1, (request,), {Property.SUBSCRIPTION_ID: (77,)}))
            await client.expect(Suback)
        async with (
            serving(store=str(path)) as broker,
            resumed(broker, "c") as client,
            connected(broker.address, "p") as sender,
        ):
            await client.send(publish("t", b"own"), Pingreq())
            await client.expect(Pingresp)
            await sender.send(publish("t", b"x", retain=True))
            message = await client.expect(Publish)
            assert (message.payload, message.retain) == (b"x", True)
            assert message.properties[Property.SUBSCRIPTION_ID] == (77,)

    asyncio.run(scenario())


def test_sessions_that_end_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def scenario() -> None:
        async with serving(store=str(path)) as broker:
            async with connected(broker.address, "fleeting") as client:
                await client.subscribe("t", 1)
            for name in ("cleaned", "shortened", "expired", "left"):
                async with connected(broker.address, name, **kept(V5)) as client:
                    await client.subscribe("t", 2)
            async with connected(broker.address, "p", **kept(V5)) as sender:
                await sender.send(publish("t", b"x", qos=2))
                await sender.expect(Pubrec)
                await sender.send(Disconnect(properties={Property.SESSION_EXPIRY: 0}))
                assert await sender.receive() is None
        assert rows(path) == {"session": 4, "subscription": 4, "message": 1, "delivery": 4}
        with opened(path) as database:
            assert database.execute("UPDATE session SET expires_at = 1 WHERE client_id = 'expired'").rowcount == 1
        async with serving(store=str(path)) as broker:
            async with connected(broker.address, "cleaned") as client:
                assert not client.connack.session_present  # type: ignore[attr-defined]
            async with connected(broker.address, "shortened", clean_start=False) as client:
                assert (await client.expect(Publish)).payload == b"x"
            async with connected(broker.address, "expired", clean_start=False) as client:
                assert not client.connack.session_present  # type: ignore[attr-defined]
        assert rows(path) == {"session": 1, "subscription": 1, "message": 1, "delivery": 1}

    asyncio.run(scenario())


def test_retained_messages_are_replaced_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    user = ("name", "value")

    async def scenario() -> None:
        async with serving(store=str(path)) as broker, connected(broker.address, "p") as sender:
            for topic, payload in (("a", b"1"), ("a", b"2"), ("b", b"1"), ("b", b""), ("late", b"3")):
                properties = {Property.MESSAGE_EXPIRY: 1000, Property.USER_PROPERTY: (user,)}
                await sender.send(publish(topic, payload, qos=1, retain=True, properties=properties))
                await sender.expect(Puback)
        assert rows(path) == {"message": 2, "retained": 2}
        with opened(path) as database:
            assert database.execute("UPDATE message SET expires_at = 1 WHERE topic = 'late'").rowcount == 1
        async with serving(store=str(path)) as broker, connected(broker.address, "c") as client:
            await client.subscribe("#")
            message = await client.expect(Publish)
            assert (message.topic, message.payload) == ("a", b"2")
            assert message.properties[Property.USER_PROPERTY] == (user,)
            await client.send(Pingreq())
            await client.expect(Pingresp)
        assert rows(path) == {"message": 1, "retained": 1}

    asyncio.run(scenario())


@pytest.mark.parametrize("goodbye", [False, True])
def test_a_will_outlives_a_broker_that_is_stopped(goodbye: bool, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    will = Will("will", b"gone", 1)

    async def scenario() -> None:
        async with AsyncExitStack() as clients, serving(store=store) as broker:
            watch = await clients.enter_async_context(connected(broker.address, "watch", **kept(V5)))
            client = await clients.enter_async_context(connected(broker.address, "c", will=will, properties=FOREVER))
            await watch.subscribe("#", 1)
            if goodbye:
                await client.send(Disconnect())
                assert await client.ended() == []
        async with serving(store=store) as broker, resumed(broker, "watch") as watch:
            broker.publish("after", b"", qos=1)
            topics = [(await watch.expect(Publish)).topic]
            if not goodbye:
                topics.append((await watch.expect(Publish)).topic)
            assert sorted(topics) == (["after"] if goodbye else ["after", "will"])
        assert "will" not in rows(tmp_path / "store")

    asyncio.run(scenario())


@pytest.mark.parametrize("back", [False, True])
def test_a_will_is_published_and_removed_in_one_batch(
    back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is killed between two would publish it again, or not at all."""
    write = Store._write
    batches: list[dict[tuple[str, tuple[object, ...]], tuple[object, bool]]] = []

    def recording(store: Store, batch: dict[object, object]) -> None:
        batches.append(dict(batch))  # type: ignore[arg-type]
        write(store, batch)  # type: ignore[arg-type]

    def attached(registry: DurableRegistry, *args: Any) -> Any:
        found = attach(registry, *args)
        waiting.append(len(registry._wills))
        return found

    attach, waiting = DurableRegistry.attach, list[int]()
    monkeypatch.setattr(Store, "_write", recording)
    monkeypatch.setattr(DurableRegistry, "attach", attached)

    async def scenario() -> None:
        async with (
            serving(store=str(tmp_path / "store")) as broker,
            connected(broker.address, "watch", **kept(V5)) as watch,
            connected(broker.address, "c", will=Will("will", b"gone", 1), properties=FOREVER) as client,
        ):
            await watch.subscribe("will", 1)
            await until(lambda: not broker._registry.store._busy)  # type: ignore[union-attr]
            batches.clear()
            if back:  # the will has no delay, so that it is due at once
                async with connected(broker.address, "c", **kept(V5)):
                    await watch.expect(Publish)
            else:
                client.abort()
                await watch.expect(Publish)
            await until(lambda: not broker._registry.store._busy)  # type: ignore[union-attr]

    asyncio.run(scenario())
    published = [batch for batch in batches if any(table == "message" for table, _ in batch)]
    removed = [batch for batch in batches if any(table == "will" for table, _ in batch)]
    assert published == removed[:1]
    assert not any(waiting)


# A disk that fails


@VERSIONS
def test_a_full_disk_refuses_messages_until_there_is_room(
    version: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.RETRY_S", 0.05)
    path = tmp_path / "store"

    async def scenario() -> None:
        async with serving(store=str(path)) as broker, connected(broker.address, "watch") as watch:
            async with connected(broker.address, "absent", **kept(V5)) as client:
                await client.subscribe("t", 1)
            database = broker._registry.archive.store._database  # type: ignore[attr-defined]
            await watch.subscribe("t", 0)
            (pages,) = database.execute("PRAGMA page_count").fetchone()
            database.execute(f"PRAGMA max_page_count = {pages}")
            async with connected(broker.address, "p", version) as sender:
                await sender.send(publish("t", b"x" * 100_000, qos=1))
                ended = await sender.ended()
                assert ended == ([Disconnect(Reason.QUOTA_EXCEEDED, ended[0].properties)] if version == V5 else [])  # type: ignore[union-attr]
            async with connected(broker.address, "p", version) as sender:
                await sender.send(publish("t", b"refused", qos=1), publish("t", b"refused", qos=2, packet_id=2))
                if version == V5:
                    assert (await sender.expect(Puback)).reason == Reason.QUOTA_EXCEEDED
                    assert (await sender.expect(Pubrec)).reason == Reason.QUOTA_EXCEEDED
                else:
                    assert await sender.receive() is None
            async with open_client(broker.address, version) as late:
                await late.send(Connect("late", version, **kept(version)))
                assert (await late.expect(Connack)).reason == (Reason.QUOTA_EXCEEDED if version == V5 else 3)
            database.execute("PRAGMA max_page_count = 1000000")
            await until(lambda: not broker._registry.archive.store.failure)  # type: ignore[attr-defined]
            async with connected(broker.address, "p", version) as sender:
                await sender.send(publish("t", b"accepted", qos=1))
                assert (await sender.expect(Puback)).reason == Reason.SUCCESS
        async with serving(store=str(path)) as broker, resumed(broker, "absent") as client:
            assert [(await client.expect(Publish)).payload[:8] for _ in range(2)] == [b"x" * 8, b"accepted"]

    asyncio.run(scenario())
    said = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert "full" in said[0]


# Files that are refused


def refused(path: Path) -> str:
    """The line with which a broker refuses the file."""

    async def scenario() -> None:
        async with serving(store=str(path)):
            pass

    with pytest.raises(SettingsError) as caught:
        asyncio.run(scenario())
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"store: {path}: ")
    return line


def make(path: Path) -> None:
    """The file of a broker with one session that ran before."""

    async def scenario() -> None:
        async with serving(store=str(path)) as broker, connected(broker.address, "c", **kept(V5)) as client:
            await client.subscribe("t", 1)

    asyncio.run(scenario())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    text, other, directory = tmp_path / "text", tmp_path / "other", tmp_path / "none" / "store"
    text.write_text("what is this?\n" * 100)
    with opened(other) as database:
        database.execute("CREATE TABLE things (name)")
    assert "not a database" in refused(text)
    assert "none of this broker" in refused(other)
    assert "No such file" in refused(directory)
    assert text.read_text() == "what is this?\n" * 100


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "store")
    with opened(tmp_path / "store") as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    assert f"version {VERSION + 1}; valid: {VERSION}" in refused(tmp_path / "store")


@pytest.mark.parametrize("page", [1, 2])
def test_a_damaged_file_is_refused(page: int, tmp_path: Path) -> None:
    path = tmp_path / "store"
    make(path)
    content = bytearray(path.read_bytes())
    assert len(content) >= (page + 1) * 4096
    content[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    refused(path)


def test_rows_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "store")
    with opened(tmp_path / "store") as database:
        assert database.execute("DELETE FROM session").rowcount == 1
    assert "do not fit" in refused(tmp_path / "store")
    assert rows(tmp_path / "store") == {"subscription": 1}


def test_two_brokers_on_one_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store_file.LOCK_S", 0)

    async def scenario() -> None:
        async with serving(store=str(tmp_path / "store")):
            with pytest.raises(SettingsError, match="another broker uses it"):
                async with serving(store=str(tmp_path / "store")):
                    pass
        async with serving(store=str(tmp_path / "store")):
            pass

    asyncio.run(scenario())


def test_a_broker_that_cannot_listen_lets_go_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.store_file.LOCK_S", 0)
    store = str(tmp_path / "store")

    async def scenario() -> None:
        async with serving() as other:
            with pytest.raises(ConnectError):
                async with Broker(BrokerConfig(port=other.address[1], store=store)):
                    pass
        async with serving(store=store):
            pass

    asyncio.run(scenario())


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    make(tmp_path / "store")
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0


def test_a_file_that_others_could_read_is_its_owners_only_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "store"
    make(path)
    path.chmod(0o644)

    async def scenario() -> None:
        async with serving(store=str(path)) as broker, connected(broker.address, "c", **kept(V5)):
            assert modes(tmp_path) == {"store": 0o600, "store-wal": 0o600}

    asyncio.run(scenario())


def test_a_file_that_is_refused_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text("what is this?\n" * 100)
    path.chmod(0o644)
    refused(path)
    assert path.stat().st_mode & 0o777 == 0o644

"""Users, rules and certificates that a running broker reads again."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.broker_config import BrokerConfig
from broker.errors import SettingsError
from broker.packets import Disconnect, Pingreq, Pingresp, Publish
from broker.pki import Pki
from broker.properties import Property
from broker.reasons import Reason
from broker.server import Broker
from broker.users import delete_user, set_password
from tests.broker.lab import ALICE, BOB, PASSWORDS, context, introduce, opened, reaches, tls
from tests.broker.raw import publish

AGENT0, AGENT1 = "sc-run-agent0", "sc-run-agent1"


def write(path: Path, text: str) -> None:
    path.write_text(text)


def test_connected_clients_have_the_rights_of_the_new_files(users: Path, rules: Path) -> None:
    async def scenario() -> None:
        config = BrokerConfig(port=0, users=str(users), acl=str(rules))
        async with Broker(config) as broker, opened(broker.address) as alice, opened(broker.address) as bob:
            assert await introduce(alice, "a", **ALICE) == 0
            assert await introduce(bob, "b", **BOB) == 0
            assert (await alice.subscribe("lab/#")).reasons == (0,)
            assert (await alice.subscribe("home/alice/#")).reasons == (0,)
            write(rules, "user bob\ntopic write #\npattern read home/%u/#\n")
            broker.reload()
            for topic in ("lab/x", "home/alice/x"):
                await bob.send(publish(topic))
            assert (await alice.expect(Publish)).topic == "home/alice/x"

    asyncio.run(scenario())


def test_a_user_who_is_gone_or_has_another_password_is_ended(users: Path) -> None:
    async def scenario() -> None:
        async with Broker(BrokerConfig(port=0, users=str(users))) as broker:
            async with opened(broker.address) as alice, opened(broker.address) as bob, opened(broker.address) as server:
                assert await introduce(alice, "a", **ALICE) == 0
                assert await introduce(bob, "b", **BOB) == 0
                assert await introduce(server, "s", username="server", password=PASSWORDS["server"]) == 0
                delete_user(users, "alice")
                set_password(users, "bob", "other")
                broker.reload()
                for ended in (alice, bob):
                    disconnect = await ended.expect(Disconnect)
                    assert disconnect.reason == Reason.NOT_AUTHORIZED
                    assert disconnect.properties[Property.REASON_STRING] == "the password has changed"
                await server.send(Pingreq())
                await server.expect(Pingresp)
            async with opened(broker.address) as alice, opened(broker.address) as bob:
                assert await introduce(alice, "a", **ALICE) == Reason.BAD_USER_NAME_OR_PASSWORD
                assert await introduce(bob, "b", username="bob", password="other") == 0

    asyncio.run(scenario())


def test_a_bad_file_leaves_everything_as_it_was(users: Path, rules: Path) -> None:
    async def scenario() -> None:
        config = BrokerConfig(port=0, users=str(users), acl=str(rules))
        async with Broker(config) as broker, opened(broker.address) as alice:
            assert await introduce(alice, "a", **ALICE) == 0
            delete_user(users, "bob")
            write(rules, "nonsense\n")
            with pytest.raises(SettingsError, match="line 1: 'nonsense' is no rule"):
                broker.reload()
            assert (await alice.subscribe("lab/#")).reasons == (0,)
            async with opened(broker.address) as bob:
                assert await introduce(bob, "b", **BOB) == 0

    asyncio.run(scenario())


def test_the_program_reads_its_files_again_on_sighup(users: Path) -> None:
    async def scenario() -> None:
        command = [sys.executable, "-m", "broker", "--port", "0", "--events", "--users", str(users)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None

        async def event() -> dict[str, Any]:
            assert process.stdout is not None
            event: dict[str, Any] = json.loads(await process.stdout.readline())
            return event

        try:
            ready = await event()
            address = ready["host"], ready["port"]
            delete_user(users, "bob")
            process.send_signal(signal.SIGHUP)
            assert await event() == {"event": "reloaded"}
            async with opened(address) as bob:
                assert await introduce(bob, "b", **BOB) == Reason.BAD_USER_NAME_OR_PASSWORD
            write(users, "nonsense\n")
            process.send_signal(signal.SIGHUP)
            told = await event()
            assert told["event"] == "not reloaded"
            assert "line 1" in told["text"]
            async with opened(address) as alice:
                assert await introduce(alice, "a", **ALICE) == 0
        finally:
            process.terminate()
            assert await process.wait() == 0

    asyncio.run(scenario())


def test_a_certificate_that_is_revoked_ends_its_connection(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path, "lab")
    for name in ("agent0", "agent1"):
        pki.issue(name)

    async def scenario() -> None:
        async with Broker(tls(pki)) as broker:
            async with (
                opened(broker.address, context(pki, "agent0")) as agent0,
                opened(broker.address, context(pki, "agent1")) as agent1,
            ):
                assert await introduce(agent0, AGENT0) == 0
                assert await introduce(agent1, AGENT1) == 0
                broker.reload()  # with nothing changed, nobody is disturbed
                await agent1.send(Pingreq())
                await agent1.expect(Pingresp)
                pki.revoke("agent1")
                broker.reload()
                for agent in (agent0, agent1):
                    assert (await agent.expect(Disconnect)).reason == Reason.ADMINISTRATIVE_ACTION
            assert await reaches(broker.address, context(pki, "agent0"), AGENT0) == 0
            assert await reaches(broker.address, context(pki, "agent1"), AGENT1) is None

    asyncio.run(scenario())


def test_a_new_certificate_of_the_broker_is_shown_to_those_who_come(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path, "lab")
    config = BrokerConfig(
        port=0, tls_certificate=str(pki.path("broker", "crt")), tls_key=str(pki.path("broker", "key"))
    )

    async def shown(broker: Broker) -> Any:
        _, writer = await asyncio.open_connection(*broker.address, ssl=context(pki))
        certificate = writer.get_extra_info("peercert")
        writer.close()
        return certificate["serialNumber"]

    async def scenario() -> None:
        async with Broker(config) as broker:
            old = await shown(broker)
            pki.issue("broker", force=True)
            assert await shown(broker) == old
            broker.reload()
            assert await shown(broker) != old

    asyncio.run(scenario())

"""Who is let in and what they may do: the same users and rules in the embedded broker and in mosquitto."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broker import guard
from broker.authority import Anyone, Peer
from broker.broker_config import BrokerConfig
from broker.errors import ProtocolError, SettingsError
from broker.guard import Guard, authority_of, is_own_client_id
from broker.packets import V5, V311, Connect, Pingreq, Pingresp, Puback, Publish, Will
from broker.reasons import Reason
from broker.server import Broker
from broker.users import Users
from tests.broker.lab import ALICE, BOB, BOTH, RULES, Address, introduce, opened, play
from tests.broker.raw import publish, until

REFUSED = {"embedded": Reason.BAD_USER_NAME_OR_PASSWORD, "mosquitto": Reason.NOT_AUTHORIZED}


# Users


@BOTH
@pytest.mark.parametrize(
    ("fields", "let_in"),
    [
        (ALICE, True),
        (BOB, True),
        ({"username": "alice", "password": "builder"}, False),
        ({"username": "alice", "password": ""}, False),
        ({"username": "nobody", "password": "wonder"}, False),
    ],
)
def test_a_user_needs_the_users_password(kind: str, fields: Any, let_in: bool, users: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "c", **fields) == (Reason.SUCCESS if let_in else REFUSED[kind])
            if not let_in:
                assert await client.ended() == []

    play(kind, BrokerConfig(port=0, users=str(users)), tmp_path, script)


@BOTH
def test_a_client_without_a_name_is_refused(kind: str, users: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "c") == Reason.NOT_AUTHORIZED

    play(kind, BrokerConfig(port=0, users=str(users)), tmp_path, script)


@pytest.mark.parametrize(("fields", "code"), [({}, 5), ({"username": "alice", "password": "x"}, 4), (ALICE, 0)])
def test_older_clients_are_told_in_their_own_codes(fields: Any, code: int, users: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address, version=V311) as client:
            assert await introduce(client, "c", **fields) == code

    play("embedded", BrokerConfig(port=0, users=str(users)), tmp_path, script)


def test_a_wrong_password_takes_nobodys_connection_over(users: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as client, opened(address) as thief:
            assert await introduce(client, "c", **ALICE) == 0
            assert await introduce(thief, "c", username="alice", password="x") != 0
            await client.send(Pingreq())
            await client.expect(Pingresp)

    play("embedded", BrokerConfig(port=0, users=str(users)), tmp_path, script)


def test_the_reason_does_not_tell_known_users_from_unknown_ones(users: Path) -> None:
    async def why(name: str) -> tuple[str, int]:
        authority = Guard(BrokerConfig(port=0, users=str(users)))
        with pytest.raises(ProtocolError) as caught:
            await authority.admit(Connect("c", username=name, password=b"x"), Peer("127.0.0.1"))  # type: ignore[misc]
        authority.close()
        return str(caught.value), caught.value.reason_code

    assert asyncio.run(why("alice")) == asyncio.run(why("nobody"))


def test_a_flood_of_wrong_passwords_keeps_nobody_else_waiting(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While passwords wait to be checked the broker works on, and those beyond the limit are turned away at once."""
    monkeypatch.setattr(guard, "MAX_WAITING", 8)

    async def scenario() -> None:
        async with Broker(BrokerConfig(port=0, users=str(users))) as broker, opened(broker.address) as client:
            assert await introduce(client, "c", **ALICE) == 0
            waiting = asyncio.Event()
            go_on = asyncio.Event()
            loop = asyncio.get_running_loop()

            def check(self: Users, name: str, password: bytes) -> bool:
                loop.call_soon_threadsafe(waiting.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)
                return False

            async def attack(number: int) -> int:
                async with opened(broker.address) as attacker:
                    return await introduce(attacker, f"x{number}", username="alice", password="x")

            with monkeypatch.context() as patch:
                patch.setattr(Users, "check", check)
                attacks = [asyncio.create_task(attack(number)) for number in range(20)]
                await waiting.wait()
                turned_away, _ = await asyncio.wait(attacks, return_when=asyncio.FIRST_COMPLETED)
                assert {attack.result() for attack in turned_away} == {Reason.SERVER_BUSY}
                await client.send(Pingreq())
                await client.expect(Pingresp)
                go_on.set()
                answers = await asyncio.gather(*attacks)
            assert answers.count(Reason.BAD_USER_NAME_OR_PASSWORD) == 8
            assert answers.count(Reason.SERVER_BUSY) == 12
            async with opened(broker.address) as other:
                assert await introduce(other, "d", **BOB) == 0

    asyncio.run(scenario())


def test_a_client_that_leaves_while_its_password_is_checked_leaves_nothing(users: Path) -> None:
    async def scenario() -> None:
        async with Broker(BrokerConfig(port=0, users=str(users))) as broker:
            authority = broker.authority
            assert isinstance(authority, Guard)
            async with opened(broker.address) as client:
                await client.send(Connect("c", V5, username="alice", password=b"wonder"))
                await until(lambda: authority._waiting == 1)
                client.abort()
                await until(lambda: authority._waiting == 0)
            await until(lambda: broker.snapshot()["open_connections"] == 0)
            assert broker.snapshot()["sessions"] == 0

    asyncio.run(scenario())


# Rules


@BOTH
def test_what_rules_forbid_is_not_forwarded(kind: str, users: Path, rules: Path, tmp_path: Path) -> None:
    forbidden = {"alice": ("lab/secret", "news/x", "client/b"), "bob": ("lab/x", "lab", "home/alice/x", "client/a")}
    allowed = {"alice": ("lab/x", "home/alice/x", "client/a"), "bob": ("home/bob/x", "client/b")}

    async def script(address: Address) -> None:
        async with opened(address) as alice, opened(address) as bob:
            assert await introduce(alice, "a", **ALICE) == 0
            assert await introduce(bob, "b", **BOB) == 0
            for topic_filter in ("lab/#", "home/alice/#"):
                assert (await alice.subscribe(topic_filter, 1)).reasons == (1,)
            for name, client in (("bob", bob), ("alice", alice)):
                for topic in forbidden[name] + allowed[name]:
                    await client.send(publish(topic, b"payload"))
            for topic in ("lab/x", "home/alice/x"):
                assert (await alice.expect(Publish)).topic == topic

    play(kind, BrokerConfig(port=0, users=str(users), acl=str(rules)), tmp_path, script)


@BOTH
def test_a_forbidden_message_is_answered_with_the_reason(kind: str, users: Path, rules: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as bob:
            assert await introduce(bob, "b", **BOB) == 0
            await bob.send(publish("lab/x", b"", qos=1))
            assert (await bob.expect(Puback)).reason == Reason.NOT_AUTHORIZED

    play(kind, BrokerConfig(port=0, users=str(users), acl=str(rules)), tmp_path, script)


@BOTH
def test_nobody_receives_what_they_may_not_read(kind: str, users: Path, rules: Path, tmp_path: Path) -> None:
    """The embedded broker refuses the subscription; mosquitto grants it and sends nothing."""

    async def script(address: Address) -> None:
        async with opened(address) as alice, opened(address) as bob:
            assert await introduce(alice, "a", **ALICE) == 0
            assert await introduce(bob, "b", **BOB) == 0
            for topic_filter in ("#", "lab/#", "lab/x", "+/x"):
                granted = (await bob.subscribe(topic_filter, 1)).reasons
                assert granted == ((Reason.NOT_AUTHORIZED,) if kind == "embedded" else (1,))
            assert (await bob.subscribe("home/bob/#", 1)).reasons == (1,)
            await alice.send(publish("lab/x", b"secret", qos=1))
            await alice.expect(Puback)
            await bob.send(publish("home/bob/x", b"own"))
            received = await bob.expect(Publish)
            assert (received.topic, bytes(received.payload)) == ("home/bob/x", b"own")

    play(kind, BrokerConfig(port=0, users=str(users), acl=str(rules)), tmp_path, script)


def test_a_denied_topic_is_left_out_of_a_wider_subscription(users: Path, rules: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as alice, opened(address) as bob:
            assert await introduce(alice, "a", **ALICE) == 0
            assert await introduce(bob, "b", **BOB) == 0
            assert (await alice.subscribe("lab/#")).reasons == (0,)
            for topic in ("lab/secret", "lab/open"):
                await bob.send(publish(topic, b""))
            assert (await alice.expect(Publish)).topic == "lab/open"

    rules.write_text(RULES + "user bob\ntopic write lab/#\n")
    play("embedded", BrokerConfig(port=0, users=str(users), acl=str(rules)), tmp_path, script)


def test_a_will_that_is_forbidden_is_refused_with_its_client(users: Path, rules: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as bob:
            assert await introduce(bob, "b", will=Will("lab/x"), **BOB) == Reason.NOT_AUTHORIZED
        async with opened(address) as alice:
            assert await introduce(alice, "a", will=Will("lab/x"), **ALICE) == 0

    play("embedded", BrokerConfig(port=0, users=str(users), acl=str(rules)), tmp_path, script)


def test_rules_hold_for_clients_without_a_name_too(rules: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "c") == 0
            assert (await client.subscribe("news/#")).reasons == (0,)
            assert (await client.subscribe("lab/#")).reasons == (Reason.NOT_AUTHORIZED,)

    play("embedded", BrokerConfig(port=0, acl=str(rules)), tmp_path, script)


@pytest.mark.parametrize("client_id", ["+", "#", "a/b"])
def test_a_client_id_that_would_match_others_is_refused(client_id: str, rules: Path, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, client_id) == Reason.CLIENT_ID_NOT_VALID

    play("embedded", BrokerConfig(port=0, acl=str(rules)), tmp_path, script)


# The policy for devices


@pytest.mark.parametrize(
    ("client_id", "name", "own"),
    [
        ("agent0", "agent0", True),
        ("sc-run-agent0", "agent0", True),
        ("sc-my-run-agent0", "agent0", True),
        ("sc-run-agent1", "agent0", False),
        ("sc-run-xagent0", "agent0", False),
        ("sc--agent0", "agent0", False),
        ("sc-agent0", "agent0", False),
        ("agent0x", "agent0", False),
        ("sc-run-agent0\n", "agent0", False),
        ("sc-a-b-c", "b-c", False),
        ("b-c", "b-c", False),
        ("sc-run-", "", False),
        ("", "", False),
        ("sc-run-axb", "a.b", False),
    ],
)
def test_a_client_id_ends_with_the_clients_own_name(client_id: str, name: str, own: bool) -> None:
    assert is_own_client_id(client_id, name) is own


@BOTH
def test_no_device_pushes_another_out(kind: str, users: Path, tmp_path: Path) -> None:
    """The embedded broker refuses the client id; mosquitto puts the name of the user in its place."""

    async def script(address: Address) -> None:
        async with opened(address) as alice, opened(address) as bob:
            assert await introduce(alice, "sc-run-alice", **ALICE) == 0
            reason = await introduce(bob, "sc-run-alice", **BOB)
            assert reason == (Reason.CLIENT_ID_NOT_VALID if kind == "embedded" else 0)
            await alice.send(Pingreq())
            await alice.expect(Pingresp)

    play(kind, BrokerConfig(port=0, users=str(users), policy="devices"), tmp_path, script)


def test_a_file_of_rules_adds_to_the_policy(users: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("user alice\ntopic read sc/1/+/+/metrics\n")

    async def script(address: Address) -> None:
        async with opened(address) as alice:
            assert await introduce(alice, "alice", **ALICE) == 0
            assert (await alice.subscribe("sc/1/run/+/metrics")).reasons == (0,)
            assert (await alice.subscribe("sc/1/run/alice/#")).reasons == (0,)
            assert (await alice.subscribe("sc/1/run/+/up")).reasons == (Reason.NOT_AUTHORIZED,)

    play("embedded", BrokerConfig(port=0, users=str(users), policy="devices", acl=str(rules)), tmp_path, script)


# Settings


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"host": "0.0.0.0"}, "host: '0.0.0.0' can be reached from other machines and anyone may connect"),
        ({"tls_key": "k"}, "tls_key: a certificate and its key go together"),
        ({"tls_ca": "c"}, "tls_ca: needs tls_certificate"),
        ({"tls_require": True}, "tls_require: needs tls_ca"),
        ({"tls_crl": "c"}, "tls_crl: needs tls_ca"),
        ({"policy": "device"}, "policy: 'device' is unknown; valid: none, devices"),
        ({"policy": "devices"}, "policy: devices needs clients with names"),
        ({"host": "0.0.0.0", "tls_certificate": "c", "tls_key": "k", "tls_ca": "a"}, "anyone may connect"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.split("'")[0]) as caught:
        BrokerConfig(**values)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"users": "u"},
        {"insecure": True},
        {"tls_certificate": "c", "tls_key": "k", "tls_ca": "a", "tls_require": True},
    ],
)
def test_another_address_than_loopback_needs_authentication_or_a_word(values: Any) -> None:
    assert BrokerConfig(host="0.0.0.0", **values).host == "0.0.0.0"


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for key, config in (("users", BrokerConfig(users=missing)), ("acl", BrokerConfig(acl=missing))):
        with pytest.raises(SettingsError, match=f"{key}: {missing}: No such file"):
            Broker(config)


def test_a_broker_without_any_of_it_lets_anyone_in() -> None:
    assert isinstance(authority_of(BrokerConfig()), Anyone)
    assert isinstance(Broker(BrokerConfig(port=0)).authority, Anyone)

"""TLS: which certificates are good, what becomes of the others, and what is said of files that cannot be used."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import socket
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from broker.errors import SettingsError
from broker.packet_encoder import encode
from broker.packets import V5, Connack, Connect, Disconnect, Pingreq, Pingresp, Puback, Publish, Will
from broker.pki import Pki
from broker.reasons import Reason
from broker.server import Broker, BrokerConfig
from broker.tls import client_context, server_context
from tests.broker.lab import BOTH, Address, Lab, context, introduce, opened, play, reaches, tls
from tests.broker.raw import PATIENCE_S, publish, until
from tests.broker.serving import FOREVER, has_all_and_no_will

RUN = "sc/1/run"
AGENT0, AGENT1, SERVER = "sc-run-agent0", "sc-run-agent1", "sc-run-server"


# Who gets in


@BOTH
def test_a_device_with_a_certificate_gets_in_and_reaches_its_topics(kind: str, lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address, lab.context("server")) as server, opened(address, lab.context("agent0")) as agent:
            assert await introduce(server, SERVER) == 0
            assert await introduce(agent, AGENT0) == 0
            assert (await server.subscribe(f"{RUN}/+/up", 1)).reasons == (1,)
            assert (await agent.subscribe(f"{RUN}/agent0/down", 1)).reasons == (1,)
            body = bytes(300_000)
            await agent.send(publish(f"{RUN}/agent0/up", body, qos=1))
            assert (await agent.expect(Puback)).reason == 0
            received = await server.expect(Publish)
            assert (received.topic, len(received.payload)) == (f"{RUN}/agent0/up", len(body))
            await server.send(publish(f"{RUN}/agent0/down", b"answer"))
            assert bytes((await agent.expect(Publish)).payload) == b"answer"

    play(kind, lab.tls(policy="devices"), tmp_path, script)


@BOTH
def test_a_device_does_not_reach_the_topics_of_another(kind: str, lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address, lab.context("server")) as server, opened(address, lab.context("agent1")) as thief:
            assert await introduce(server, SERVER) == 0
            assert await introduce(thief, AGENT1) == 0
            assert (await server.subscribe(f"{RUN}/+/up", 1)).reasons == (1,)
            granted = (await thief.subscribe(f"{RUN}/agent0/down", 1)).reasons
            assert granted == ((Reason.NOT_AUTHORIZED,) if kind == "embedded" else (1,))
            assert (await thief.subscribe(f"{RUN}/agent1/down", 1)).reasons == (1,)
            await thief.send(publish(f"{RUN}/agent0/up", b"forged", qos=1))
            assert (await thief.expect(Puback)).reason == Reason.NOT_AUTHORIZED
            await thief.send(publish(f"{RUN}/agent1/up", b"own"))
            assert (await server.expect(Publish)).topic == f"{RUN}/agent1/up"
            for name in ("agent0", "agent1"):
                await server.send(publish(f"{RUN}/{name}/down"))
            assert (await thief.expect(Publish)).topic == f"{RUN}/agent1/down"

    play(kind, lab.tls(policy="devices"), tmp_path, script)


@BOTH
@pytest.mark.parametrize("name", ["", "expired", "revoked", "foreign", "broker"])
def test_no_other_certificate_gets_in(kind: str, name: str, lab: Lab, tmp_path: Path) -> None:
    """None at all, one that ran out, was revoked or comes from a foreign authority, and one that is for servers."""

    async def script(address: Address) -> None:
        foreign = name == "foreign"
        shown = context(lab.pki, "agent0", lab.foreign) if foreign else lab.context(name)
        async with opened(address, lab.context("agent0")) as agent:
            assert await introduce(agent, AGENT0) == 0
            assert await reaches(address, shown, name or "nobody") is None
            await agent.send(Pingreq())
            await agent.expect(Pingresp)
        assert await reaches(address, lab.context("agent0"), AGENT0) == 0

    play(kind, lab.tls(policy="devices"), tmp_path, script)


def test_another_devices_client_id_is_refused(lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address, lab.context("agent0")) as agent:
            assert await introduce(agent, AGENT0) == 0
            for client_id in (AGENT0, "agent0", "sc-run-server", "", "other"):
                refused = await reaches(address, lab.context("agent1"), client_id)
                assert refused == Reason.CLIENT_ID_NOT_VALID, client_id
            await agent.send(Pingreq())
            await agent.expect(Pingresp)

    play("embedded", lab.tls(policy="devices"), tmp_path, script)


def test_a_user_name_does_not_change_whose_certificate_it_is(lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address, lab.context("agent1")) as thief:
            assert await introduce(thief, AGENT1, username="agent0", password="x") == 0
            assert (await thief.subscribe(f"{RUN}/agent0/down")).reasons == (Reason.NOT_AUTHORIZED,)

    play("embedded", lab.tls(policy="devices"), tmp_path, script)


def test_certificates_and_passwords_may_stand_beside_each_other(lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        assert await reaches(address, lab.context("agent0"), AGENT0) == 0
        assert await reaches(address, lab.context(), "sc-run-alice") == Reason.NOT_AUTHORIZED
        async with opened(address, lab.context()) as alice:
            assert await introduce(alice, "sc-run-alice", username="alice", password="wonder") == 0
        assert await reaches(address, lab.context("revoked"), "revoked") is None

    config = lab.tls(policy="devices", users=str(lab.users), tls_require=False)
    play("embedded", config, tmp_path, script)


def test_a_client_trusts_only_its_own_authority(lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(*address, ssl=context(lab.foreign))
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(*address, ssl=client_context())

    play("embedded", lab.tls(), tmp_path, script)


def test_a_client_trusts_only_a_broker_of_the_host_it_asked_for(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path, "lab", ["broker.example"])
    config = BrokerConfig(
        port=0, tls_certificate=str(pki.path("broker", "crt")), tls_key=str(pki.path("broker", "key"))
    )

    async def script(address: Address) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await asyncio.open_connection(*address, ssl=context(pki))
        _, writer = await asyncio.open_connection(*address, ssl=context(pki), server_hostname="broker.example")
        writer.close()

    play("embedded", config, tmp_path, script)


def test_older_tls_than_1_2_is_not_spoken(lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        old = lab.context()
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        assert await reaches(address, old, "c") is None
        newer = lab.context()
        newer.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await reaches(address, newer, "c") == 0

    play("embedded", lab.tls(tls_ca="", tls_crl="", tls_require=False), tmp_path, script)


@pytest.mark.parametrize("required", [True, False])
def test_nobody_gets_in_by_a_session_that_was_made_with_a_certificate(required: bool, lab: Lab, tmp_path: Path) -> None:
    """TLS 1.2 would resume one by its id, also without tickets; TLS 1.3 only with them."""

    def reuses(address: Address, version: ssl.TLSVersion) -> bool:
        shown = lab.context("agent0")
        shown.maximum_version = version
        session = None
        for _ in range(2):
            with (
                socket.create_connection(address, PATIENCE_S) as plain,
                shown.wrap_socket(plain, server_hostname="localhost", session=session) as secure,
            ):
                secure.sendall(encode(Connect(AGENT0, V5), V5))
                assert secure.recv(1)
                session, reused = secure.session, secure.session_reused
        return bool(reused)

    async def script(address: Address) -> None:
        assert not await asyncio.to_thread(reuses, address, ssl.TLSVersion.TLSv1_3)
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(reuses, address, ssl.TLSVersion.TLSv1_2)

    play("embedded", lab.tls(tls_require=required), tmp_path, script)


@BOTH
def test_a_client_id_is_that_of_the_certificate_without_a_policy_too(kind: str, lab: Lab, tmp_path: Path) -> None:
    """The embedded broker refuses the client id; mosquitto puts the name in the certificate in its place."""

    async def script(address: Address) -> None:
        async with opened(address, lab.context("agent0")) as agent, opened(address, lab.context("agent1")) as thief:
            assert await introduce(agent, AGENT0, properties=FOREVER) == 0
            reason = await introduce(thief, AGENT0, clean_start=False)
            assert reason == (Reason.CLIENT_ID_NOT_VALID if kind == "embedded" else 0)
            await agent.send(Pingreq())
            await agent.expect(Pingresp)
        assert await reaches(address, lab.context("agent1"), "agent1") == 0

    play(kind, lab.tls(), tmp_path, script)


# What becomes of the others


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "peer did not return a certificate"),
        ("expired", "certificate has expired"),
        ("revoked", "certificate revoked"),
        ("broker", "unsuitable certificate purpose"),
    ],
)
def test_a_refusal_is_logged_once_and_counted(
    name: str, reason: str, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls()) as broker:
            assert await reaches(broker.address, lab.context(name), "c") is None
            await until(lambda: broker.snapshot()["totals"]["refused"] == 1)
            assert broker.snapshot()["totals"]["ended"] == {"tls_handshake": 1}
            assert broker.snapshot()["open_connections"] == 0

    with caplog.at_level(logging.INFO, "broker"):
        asyncio.run(scenario())
    [line] = [record.getMessage() for record in caplog.records if "tls_handshake" in record.getMessage()]
    assert line.startswith("refused: peer=127.0.0.1:")
    assert reason in line


@BOTH
@pytest.mark.parametrize("name", ["expired", "revoked"])
def test_a_client_is_told_what_is_wrong_with_its_certificate(kind: str, name: str, lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        with pytest.raises(ssl.SSLError, match=f"ALERT_CERTIFICATE_{name.upper()}"):
            async with opened(address, lab.context(name)) as client:
                await client.receive()

    play(kind, lab.tls(), tmp_path, script)


def test_a_client_without_tls_is_refused(lab: Lab) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls()) as broker, opened(broker.address) as client:
            await client.send(Connect("c", V5))
            assert await client.ended() == []
            await until(lambda: broker.snapshot()["totals"]["ended"] == {"tls_handshake": 1})

    asyncio.run(scenario())


def test_a_client_that_never_shakes_hands_is_cut_in_time(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls(connect_timeout_s=0.05)) as broker, opened(broker.address) as client:
            assert await client.ended() == []
            await until(lambda: broker.snapshot()["totals"]["ended"] == {"tls_handshake": 1})

    with caplog.at_level(logging.INFO, "broker"):
        asyncio.run(scenario())
    assert "longer than 0.05 seconds" in caplog.text


def test_a_client_that_shakes_hands_and_says_nothing_is_cut_in_time(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.tls(connect_timeout_s=0.5)
        async with Broker(config) as broker, opened(broker.address, lab.context("agent0")) as client:
            assert await client.ended() == []
            assert broker.snapshot()["totals"]["ended"] == {"connect_timeout": 1}

    asyncio.run(scenario())


def test_handshakes_are_bounded_like_connections(lab: Lab) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls(max_connections=2)) as broker:
            async with opened(broker.address) as one, opened(broker.address) as two, opened(broker.address) as three:
                assert await three.ended() == []
                await until(lambda: broker.snapshot()["totals"]["refused"] == 1)
                one.abort()
                two.abort()
                await until(lambda: broker.snapshot()["totals"]["refused"] == 3)
            assert await reaches(broker.address, lab.context("agent0"), AGENT0) == 0

    asyncio.run(scenario())


def test_the_rate_of_connections_holds_before_the_handshake(lab: Lab) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls(connections_per_s=0.001)) as broker:
            assert await reaches(broker.address, lab.context("agent0"), AGENT0) == 0
            with pytest.raises(OSError, match=r".*"):
                await asyncio.open_connection(*broker.address, ssl=lab.context("agent0"))

    asyncio.run(scenario())


def test_a_broker_that_is_closed_waits_for_no_handshake(lab: Lab) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls()) as broker:
            reader, writer = await asyncio.open_connection(*broker.address)
            gate = broker.gate
            assert gate is not None
            await until(lambda: bool(gate._shaking))
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()

    asyncio.run(scenario())


def test_what_comes_with_the_end_of_the_handshake_is_read(lab: Lab) -> None:
    """A client may send its CONNECT and more at once, before it has been answered and while its password is checked."""

    async def scenario() -> None:
        config = lab.tls(users=str(lab.users), tls_require=False)
        async with Broker(config) as broker, opened(broker.address, lab.context()) as client:
            body = bytes(range(256)) * 4096
            connect = Connect("c", V5, username="alice", password=b"wonder")
            await client.send_bytes(encode(connect, V5) + encode(publish("t", body, qos=1), V5))
            assert (await client.expect(Connack)).reason == 0
            assert (await client.expect(Puback)).packet_id == 1

    asyncio.run(scenario())


def test_a_broker_that_is_closed_says_so_over_tls(lab: Lab) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as clients:
            async with Broker(lab.tls()) as broker:
                client = await clients.enter_async_context(opened(broker.address, lab.context("agent0")))
                assert await introduce(client, AGENT0) == 0
                ended = asyncio.create_task(client.ended())
            [goodbye] = await ended
            assert isinstance(goodbye, Disconnect)
            assert goodbye.reason == Reason.SERVER_SHUTTING_DOWN

    asyncio.run(scenario())


# Files


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tls_certificate": "missing"}, "tls_certificate: missing: No such file"),
        ({"tls_key": "missing"}, "tls_key: missing: No such file"),
        ({"tls_ca": "missing"}, "tls_ca: missing: No such file"),
        ({"tls_crl": "missing"}, "tls_crl: missing: No such file"),
        ({"tls_certificate": "text"}, "tls_certificate: text holds no PEM"),
        ({"tls_key": "text"}, "tls_key: text holds no PEM"),
        ({"tls_ca": "text"}, "tls_ca: text holds no PEM"),
        ({"tls_crl": "text"}, "tls_crl: text holds no PEM"),
        ({"tls_ca": "revocations"}, "tls_ca: revocations holds no certificate"),
        ({"tls_crl": "authority"}, "tls_crl: authority holds no list of revoked certificates"),
        ({"tls_key": "other"}, "tls_key: other is not the key of"),
        ({"tls_key": "locked"}, "tls_key: locked is locked with a passphrase"),
        ({"tls_certificate": "torn"}, "tls_certificate: torn"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(
    change: dict[str, str], problem: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("hello\n")
    Path("other").write_bytes(lab.pki.path("agent0", "key").read_bytes())
    Path("locked").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    Path("revocations").write_bytes(lab.pki.revocations.read_bytes())
    Path("authority").write_bytes(lab.pki.path("ca", "crt").read_bytes())
    Path("torn").write_bytes(lab.pki.path("broker", "crt").read_bytes()[:200])
    with pytest.raises(SettingsError) as caught:
        server_context(lab.tls(**change))
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


def test_a_clients_files_are_named_too(lab: Lab) -> None:
    with pytest.raises(SettingsError, match="tls_ca: missing: No such file"):
        client_context("missing")
    with pytest.raises(SettingsError, match="tls_key: a certificate and its key go together"):
        client_context(certificate=str(lab.pki.path("agent0", "crt")))


def test_a_certificate_that_is_not_good_yet_does_not_get_in(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path, "lab")
    pki.issue("early", begins=dt.datetime.now(dt.UTC) + dt.timedelta(days=1))

    async def scenario() -> None:
        async with Broker(tls(pki)) as broker:
            assert await reaches(broker.address, context(pki, "early"), "early") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [5_000, 60_000])
def test_all_that_came_before_a_clients_goodbye_is_handled(count: int, lab: Lab) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls(tls_require=False)) as broker, AsyncExitStack() as stack:
            watch = await stack.enter_async_context(opened(broker.address, lab.context()))
            assert await introduce(watch, "watch") == 0
            await watch.subscribe("#")
            async with opened(broker.address, lab.context()) as client:
                await client.send(Connect("c", V5, will=Will("will")))
                await client.expect(Connack)
                await client.send(*(publish("t", b"%d" % number) for number in range(count)), Disconnect())
            await has_all_and_no_will(broker, watch, count)

    asyncio.run(scenario())

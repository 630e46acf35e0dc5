"""The laboratory's certificate authority: what it makes, what it takes back, and what it says it cannot do."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import SettingsError
from broker.pki import Pki


def certificate(pki: Pki, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.path(name, "crt").read_bytes())


def revoked(pki: Pki) -> set[str]:
    """Serials on the revocation list."""
    return {f"{entry.serial_number:x}" for entry in x509.load_pem_x509_crl(pki.revocations.read_bytes())}


def openssl(pki: Pki, name: str, purpose: str) -> str:
    """What openssl thinks of a certificate."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    command = [program, "verify", "-crl_check", "-purpose", purpose, "-CAfile", str(pki.path("ca", "crt"))]
    command += ["-CRLfile", str(pki.revocations), "-x509_strict", str(pki.path(name, "crt"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return "good" if done.returncode == 0 else done.stderr


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.create(tmp_path / "pki", "LAB")


def test_the_authority_may_sign_certificates_and_nothing_else(pki: Pki) -> None:
    ca = certificate(pki, "ca")
    assert ca.subject == ca.issuer
    assert ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "LAB"
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature
    assert 3640 <= (ca.not_valid_after_utc - dt.datetime.now(dt.UTC)).days <= 3652


def test_the_brokers_certificate_is_for_its_hosts(tmp_path: Path) -> None:
    pki = Pki.create(tmp_path, "LAB", ["broker.example", "10.0.0.1", "fd00::1"])
    names = certificate(pki, "broker").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "fd00::1"]
    assert openssl(pki, "broker", "sslserver") == "good"
    assert "purpose" in openssl(pki, "broker", "sslclient")


def test_by_default_the_broker_is_on_this_machine(pki: Pki) -> None:
    assert {"localhost", "127.0.0.1", "::1"} <= set(pki.hosts)


def test_a_devices_certificate_is_for_a_client_of_its_name(pki: Pki) -> None:
    issued = pki.issue("agent0", days=30)
    device = certificate(pki, "agent0")
    assert [a.value for a in device.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["agent0"]
    uses = device.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not device.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = device.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert f"{device.serial_number:x}" == issued.serial
    assert 29 <= (device.not_valid_after_utc - dt.datetime.now(dt.UTC)).days <= 30
    assert openssl(pki, "agent0", "sslclient") == "good"
    assert "purpose" in openssl(pki, "agent0", "sslserver")


def test_keys_are_their_owners_only(pki: Pki) -> None:
    pki.issue("agent0")
    for name in ("ca", "broker", "agent0"):
        assert stat.S_IMODE(pki.path(name, "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(pki.directory.stat().st_mode) == 0o700


def test_what_is_revoked_stands_on_the_list(pki: Pki) -> None:
    assert revoked(pki) == set()
    first, other = pki.issue("agent0"), pki.issue("agent1")
    assert pki.revoke("agent0") == 1
    assert revoked(pki) == {first.serial}
    assert "revoked" in openssl(pki, "agent0", "sslclient")
    assert openssl(pki, "agent1", "sslclient") == "good"
    states = {entry.name: entry.state(dt.datetime.now(dt.UTC)) for entry in Pki(pki.directory).issued}
    assert states == {"broker": "valid", "agent0": "revoked", "agent1": "valid"}
    assert other.state(dt.datetime.now(dt.UTC) + dt.timedelta(days=400)) == "expired"


def test_the_list_lasts_as_long_as_the_authority(pki: Pki) -> None:
    crl = x509.load_pem_x509_crl(pki.revocations.read_bytes())
    assert crl.next_update_utc == certificate(pki, "ca").not_valid_after_utc


def test_every_list_has_a_higher_number_and_names_the_key_that_signed_it(pki: Pki) -> None:
    def number() -> int:
        crl = x509.load_pem_x509_crl(pki.revocations.read_bytes())
        key = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        ca = certificate(pki, "ca").extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert key == ca.digest
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    numbers = [number()]
    pki.issue("agent0")
    numbers.append(number())
    Pki(pki.directory).revoke("agent0")
    numbers.append(number())
    pki.issue("agent1")
    numbers.append(number())
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0


def test_an_index_from_before_lists_had_numbers_is_read(pki: Pki) -> None:
    index = pki.directory / "index.json"
    lines = [line for line in index.read_text().splitlines() if "revocation_lists" not in line]
    index.write_text("\n".join(lines))
    Pki(pki.directory).issue("agent0")
    assert openssl(pki, "agent0", "sslclient") == "good"


def test_a_new_authority_knows_nothing_of_what_the_old_one_issued(pki: Pki) -> None:
    old = pki.issue("agent0")
    again = Pki.create(pki.directory, "LAB", force=True)
    with pytest.raises(SettingsError, match="'agent0' has no certificate to revoke"):
        again.revoke("agent0")
    assert again.issue("agent0").serial != old.serial
    assert openssl(again, "agent0", "sslclient") == "good"


def test_a_name_whose_certificate_was_revoked_gets_another(pki: Pki) -> None:
    pki.issue("agent0")
    pki.revoke("agent0")
    pki.issue("agent0")
    assert openssl(pki, "agent0", "sslclient") == "good"


def test_a_certificate_that_is_replaced_is_revoked(pki: Pki) -> None:
    old = pki.issue("agent0")
    new = pki.issue("agent0", force=True)
    assert revoked(pki) == {old.serial}
    assert f"{certificate(pki, 'agent0').serial_number:x}" == new.serial
    assert openssl(pki, "agent0", "sslclient") == "good"


def test_the_brokers_certificate_is_renewed_for_the_same_hosts(tmp_path: Path) -> None:
    Pki.create(tmp_path, "LAB", ["broker.example"])
    pki = Pki(tmp_path)
    pki.issue("broker", force=True)
    names = certificate(pki, "broker").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert openssl(pki, "broker", "sslserver") == "good"


def test_nothing_is_written_over(pki: Pki) -> None:
    pki.issue("agent0")
    before = {path: path.read_bytes() for path in pki.directory.iterdir()}
    with pytest.raises(SettingsError, match="holds an authority already"):
        Pki.create(pki.directory, "other")
    with pytest.raises(SettingsError, match="agent0 has a certificate already"):
        pki.issue("agent0")
    assert {path: path.read_bytes() for path in pki.directory.iterdir()} == before
    assert Pki.create(pki.directory, "other", force=True).issued[0].name == "broker"


def test_two_at_once_lose_nothing(pki: Pki) -> None:
    names = [f"agent{number}" for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: Pki(pki.directory).issue(name), names))
    after = Pki(pki.directory)
    assert sorted(entry.name for entry in after.issued) == sorted(["broker", *names])
    for name in names:
        after.revoke(name)
    assert len(revoked(after)) == 12


@pytest.mark.parametrize("name", ["", "ca", "a-b", "a/b", "../x", "a b", "ä", "x" * 65])
def test_a_name_that_no_device_can_have_is_refused(name: str, pki: Pki) -> None:
    with pytest.raises(SettingsError, match="is not for a device"):
        pki.issue(name)


@pytest.mark.parametrize("days", [-1, 0, 4000])
def test_a_validity_beyond_the_authoritys_is_refused(days: int, pki: Pki) -> None:
    with pytest.raises(SettingsError, match="out of range; valid: 1 to 3652"):
        pki.issue("agent0", days)


def test_a_directory_that_is_none_of_ours_is_named(tmp_path: Path, pki: Pki) -> None:
    with pytest.raises(SettingsError, match=r"index\.json: No such file .*splitcom pki init"):
        Pki(tmp_path / "missing")
    for name, problem in (("ca.key", "holds no key"), ("ca.crt", "no certificate"), ("index.json", "no index")):
        (pki.directory / name).write_text("{}")
        with pytest.raises(SettingsError, match=problem):
            Pki(pki.directory)


@pytest.mark.parametrize(
    ("key", "value"), [("serial", "xyz"), ("serial", 7), ("not_after", "soon"), ("revoked", "2026-01-01T00:00:00")]
)
def test_an_index_that_cannot_be_used_is_named_before_anything_is_written(key: str, value: object, pki: Pki) -> None:
    index = json.loads((pki.directory / "index.json").read_text())
    index["issued"][0][key] = value
    (pki.directory / "index.json").write_text(json.dumps(index))
    before = {path: path.read_bytes() for path in pki.directory.iterdir()}
    with pytest.raises(SettingsError, match="holds no index"):
        pki.issue("agent0")
    assert {path: path.read_bytes() for path in pki.directory.iterdir()} == before


def test_bad_hosts_and_names_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--host: 'ö' is no name of a host"):
        Pki.create(tmp_path / "pki", "LAB", ["ö"])
    for host in ("", "a b"):
        with pytest.raises(SettingsError, match=f"--host: '{host}' is no name of a host"):
            Pki.create(tmp_path / "pki", "LAB", [host])
    for name in ("", "x" * 65, "é" * 40, "a\nb", "\udcff"):
        with pytest.raises(SettingsError, match="--name"):
            Pki.create(tmp_path / "pki", name)
    assert not (tmp_path / "pki").exists()


def splitcom(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "testbed", "pki", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_does_it_all(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    done = splitcom("init", directory, "--name", "LAB", "--host", "broker.example")
    assert (done.returncode, done.stderr) == (0, "")
    assert "broker on broker.example" in done.stdout
    assert splitcom("issue", directory, "agent0", "--days", 30).returncode == 0
    assert splitcom("revoke", directory, "agent0").returncode == 0
    assert splitcom("issue", directory, "agent0", "--force").returncode == 0
    lines = [line.split()[:2] for line in splitcom("show", directory).stdout.splitlines()]
    assert lines == [["broker", "valid"], ["agent0", "revoked"], ["agent0", "valid"]]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("init",), "Missing argument 'DIRECTORY'"),
        (("issue", "{}", "agent0"), "No such file or directory; valid: a directory made by splitcom pki init"),
        (("show", "{}"), "No such file"),
        (("revoke", "{}", "agent0"), "No such file"),
        (("init", "{}/file/pki"), "Not a directory"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(arguments: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = splitcom(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_its_package_the_command_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['cryptography'] = None; from broker.pki_program import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "show", str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "error: splitcom pki needs the package cryptography; valid: splitcom[pki] installed\n",
    )


def test_the_broker_itself_does_not_need_the_package() -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None; import broker.__main__, broker.client, broker.credentials"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0

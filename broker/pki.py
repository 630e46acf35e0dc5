"""A certificate authority for a laboratory: its own certificate, the broker's, one for every device, and revocations.

All of it lies in one directory: `ca.crt`, `ca.key`, `crl.pem`, and for the broker and every device `NAME.crt` and
`NAME.key`, all PEM, with `index.json` to tell what has been issued. Keys are on the curve P-256 and readable by their
owner only. Certificates and revocation lists are those of RFC 5280.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.certificates import builder, host_name, now, revocations, revoked, subject, usage
from broker.errors import SettingsError
from broker.files import PRIVATE, PUBLIC, write_file

AUTHORITY, BROKER = "ca", "broker"
AUTHORITY_DAYS, BROKER_DAYS, DEVICE_DAYS = 3_652, 825, 365
_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")


@dataclass(frozen=True)
class Issued:
    """One certificate as the index knows it: times in ISO 8601, `revoked` empty while it is good.

    Raises ValueError or TypeError for what is no serial number and no time with its zone.
    """

    name: str
    serial: str
    not_after: str
    revoked: str = ""

    def __post_init__(self) -> None:
        int(self.serial, 16)
        for time in (self.not_after, self.revoked or self.not_after):
            if dt.datetime.fromisoformat(time).tzinfo is None:
                raise ValueError(f"{time!r} has no zone")

    def state(self, now: dt.datetime) -> str:
        """valid, expired or revoked."""
        if self.revoked:
            return "revoked"
        return "expired" if dt.datetime.fromisoformat(self.not_after) <= now else "valid"


class Pki:
    """The authority in a directory. What it is asked to do and cannot do raises SettingsError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hosts, self.issued, self._lists = _parse(directory / "index.json", _load_index, "index")
        self._certificate = _parse(self.path(AUTHORITY, "crt"), x509.load_pem_x509_certificate, "certificate")
        self._key = _parse(self.path(AUTHORITY, "key"), lambda pem: load_pem_private_key(pem, None), "key")

    @classmethod
    def create(cls, directory: Path, name: str, hosts: Iterable[str] = (), force: bool = False) -> Pki:
        """Make the authority and the broker's certificate, which is good for the hosts; by default for this machine.

        With `force`, an authority that is there already is replaced, and with it all that it has issued is worthless.
        """
        if (directory / "index.json").exists() and not force:
            raise SettingsError(f"{directory} holds an authority already; valid: another directory, or --force")
        if not (name.isprintable() and 1 <= len(name.encode()) <= 64):
            raise SettingsError(f"--name: {name!r:.80} is no name; valid: text of 1 to 64 bytes in UTF-8")
        hosts = list(hosts) or list(dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname())))
        names = [host_name(host) for host in hosts]
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        form = builder(name, key.public_key(), AUTHORITY_DAYS, None)
        form = form.issuer_name(subject(name))
        form = form.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        form = form.add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        _write_pair(directory, AUTHORITY, form.sign(key, hashes.SHA256()), key)
        _write_index(directory, hosts, [], 0)
        pki = cls(directory)
        pki._write_revocations()
        pki._issue(BROKER, BROKER_DAYS, x509.SubjectAlternativeName(names), None)
        return pki

    def issue(
        self, name: str, days: int | None = None, force: bool = False, begins: dt.datetime | None = None
    ) -> Issued:
        """Make a key and a certificate for a device, or the broker's anew, good from `begins`, by default from now.

        With `force`, a certificate that the name has already is replaced and revoked.
        """
        if name == AUTHORITY or not _NAME.fullmatch(name):
            raise SettingsError(f"name {name!r:.80} is not for a device; valid: 1 to 64 of A-Z a-z 0-9 _ . but not ca")
        if days is None:
            days = BROKER_DAYS if name == BROKER else DEVICE_DAYS
        if not 1 <= days <= AUTHORITY_DAYS:
            raise SettingsError(f"days: {days} is out of range; valid: 1 to {AUTHORITY_DAYS}")
        with self._locked():
            if self._good(name) and not force:
                raise SettingsError(f"{name} has a certificate already; valid: another name, or --force")
            self._mark_revoked(name)
            names = x509.SubjectAlternativeName([host_name(host) for host in self.hosts])
            issued = self._issue(name, days, names if name == BROKER else None, begins)
            self._write_revocations()
        return issued

    def revoke(self, name: str) -> int:
        """Take back all certificates of a name; returns how many that were."""
        with self._locked():
            count = self._mark_revoked(name)
            if not count:
                names = sorted({entry.name for entry in self.issued if not entry.revoked})
                raise SettingsError(f"{name!r:.80} has no certificate to revoke; valid: {', '.join(names) or 'none'}")
            self._write_revocations()
        return count

    def path(self, name: str, ending: str) -> Path:
        """Where a certificate (`crt`) or a key (`key`) lies."""
        return self.directory / f"{name}.{ending}"

    @property
    def revocations(self) -> Path:
        """The revocation list."""
        return self.directory / "crl.pem"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone in the directory, and with the index as it is now."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            now_there = Pki(self.directory)
            self.issued, self._lists = now_there.issued, now_there._lists
            yield
        finally:
            os.close(descriptor)

    def _issue(
        self, name: str, days: int, hosts: x509.SubjectAlternativeName | None, begins: dt.datetime | None
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        form = builder(name, key.public_key(), days, begins)
        form = form.issuer_name(self._certificate.subject)
        form = form.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        form = form.add_extension(usage(digital_signature=True), critical=True)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        form = form.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        form = form.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if hosts:
            form = form.add_extension(hosts, critical=False)
        certificate = form.sign(self._key, hashes.SHA256())
        issued = Issued(name, f"{certificate.serial_number:x}", certificate.not_valid_after_utc.isoformat())
        self.issued.append(issued)
        # The index first: a certificate that it does not know could not be revoked.
        _write_index(self.directory, self.hosts, self.issued, self._lists)
        _write_pair(self.directory, name, certificate, key)
        return issued

    def _mark_revoked(self, name: str) -> int:
        good, time = self._good(name), now().isoformat()
        self.issued = [Issued(e.name, e.serial, e.not_after, time) if e in good else e for e in self.issued]
        return len(good)

    def _good(self, name: str) -> list[Issued]:
        return [entry for entry in self.issued if entry.name == name and not entry.revoked]

    def _write_revocations(self) -> None:
        """The index, and then the list."""
        self._lists += 1
        _write_index(self.directory, self.hosts, self.issued, self._lists)
        form = revocations(self._certificate, self._lists)
        for entry in self.issued:
            if entry.revoked:
                at = dt.datetime.fromisoformat(entry.revoked)
                form = form.add_revoked_certificate(revoked(int(entry.serial, 16), at))
        write_file(self.revocations, form.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM), PUBLIC)


def _parse(path: Path, parse: Any, what: str) -> Any:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; valid: a directory made by splitcom pki init") from None
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{path} holds no {what} that can be read") from None


def _load_index(text: bytes) -> tuple[list[str], list[Issued], int]:
    index = json.loads(text)
    issued = [Issued(**entry) for entry in index["issued"]]
    return [str(host) for host in index["hosts"]], issued, int(index.get("revocation_lists", 0))


def _write_index(directory: Path, hosts: list[str], issued: list[Issued], lists: int) -> None:
    index = {"hosts": hosts, "revocation_lists": lists, "issued": [asdict(entry) for entry in issued]}
    write_file(directory / "index.json", json.dumps(index, indent=1).encode() + b"\n", PUBLIC)


def _write_pair(directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(directory / f"{name}.key", pem, PRIVATE)
    write_file(directory / f"{name}.crt", certificate.public_bytes(Encoding.PEM), PUBLIC)

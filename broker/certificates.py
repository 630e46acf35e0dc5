"""What the certificates and revocation lists of a laboratory hold, by RFC 5280; nothing here knows files."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.errors import SettingsError

SKEW = dt.timedelta(hours=1)
"""Certificates begin this much before they are made, for devices whose clocks are slow."""

_HOST = re.compile(r"[A-Za-z0-9_*.-]{1,253}")


def builder(
    name: str, key: ec.EllipticCurvePublicKey, days: int, begins: dt.datetime | None
) -> x509.CertificateBuilder:
    """What all certificates have, good from `begins`, by default from now."""
    start = begins or now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - SKEW)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def subject(name: str) -> x509.Name:
    """Whom a certificate is for."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(**uses: bool) -> x509.KeyUsage:
    """What a key may be used for, and for nothing else."""
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names.split()})


def host_name(host: str) -> x509.GeneralName:
    """A host of the broker, by name or by address; SettingsError for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise SettingsError(f"--host: {host!r:.80} is no name of a host and no address")
    return x509.DNSName(host)


def revocations(ca: x509.Certificate, number: int) -> x509.CertificateRevocationListBuilder:
    """A list without entries, which lasts as long as the authority: one that has run out shuts out everybody."""
    key = ca.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(now() - SKEW)
        .next_update(ca.not_valid_after_utc)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )


def revoked(serial: int, at: dt.datetime) -> x509.RevokedCertificate:
    """One entry of the list."""
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()


def now() -> dt.datetime:
    """To the second, as certificates have it."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)

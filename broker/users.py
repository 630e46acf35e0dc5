"""Users and their passwords: a text file of hashes, made by `splitcom broker passwd`.

A line is `NAME:$scrypt$N$r$p$SALT$HASH:$7$ITERATIONS$SALT$HASH`, with `SALT` and `HASH` in base64. The first hash is
scrypt's (RFC 7914) and is what this broker checks. The second, PBKDF2 with SHA-512 (RFC 8018) in mosquitto's spelling,
is there for the export to mosquitto, which knows no scrypt; a line may lack it. Empty lines and those that begin with #
count for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.errors import SettingsError
from broker.files import locked, write_file

COST = (1 << 14, 8, 1)
"""N, r and p of scrypt: 16 MiB and some 50 ms for one password."""
ITERATIONS = 20_000
"""Of the hash for mosquitto, which checks passwords in its only thread: some 10 ms there."""
MAX_MEMORY = 256 << 20
_MAX_PARALLEL = 16
_MOSQUITTO_SALT = 12  # bytes; mosquitto 2.0 takes no other length

_NAME = re.compile(r"[^\s:+#/%]{1,64}")
_MOSQUITTO = re.compile(r"\$7\$[1-9][0-9]*\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==")


@dataclass(frozen=True)
class Scrypt:
    """The scrypt hash of one password, with everything that is needed to check another one against it."""

    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: bytes) -> Scrypt:
        """A hash with a salt of its own."""
        n, r, p = COST
        salt = os.urandom(16)
        return cls(n, r, p, salt, _scrypt(password, salt, n, r, p, 32))

    @classmethod
    def parse(cls, text: str) -> Scrypt:
        """Read `$scrypt$N$r$p$SALT$HASH`; ValueError says what is wrong with it."""
        parts = text.split("$")
        if len(parts) != 7 or parts[:2] != ["", "scrypt"]:
            raise ValueError("no hash of the form $scrypt$N$r$p$SALT$HASH")
        n, r, p = (int(part) if part.isascii() and part.isdigit() else 0 for part in parts[2:5])
        if n < 2 or n & (n - 1) or r < 1 or not 1 <= p <= _MAX_PARALLEL or 128 * n * r > MAX_MEMORY:
            raise ValueError(f"scrypt of N={parts[2]}, r={parts[3]}, p={parts[4]} is not possible or asks for too much")
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[5:])
        if not 8 <= len(salt) <= 64 or not 16 <= len(digest) <= 64:
            raise ValueError("a salt or a hash of a wrong length")
        return cls(n, r, p, salt, digest)

    def fits(self, password: bytes) -> bool:
        """Whether it is the hash of this password; takes its time, and lets other threads run meanwhile."""
        candidate = _scrypt(password, self.salt, self.n, self.r, self.p, len(self.digest))
        return hmac.compare_digest(candidate, self.digest)

    def __str__(self) -> str:
        return f"$scrypt${self.n}${self.r}${self.p}${_text(self.salt)}${_text(self.digest)}"


@dataclass(frozen=True)
class User:
    """What is known of a user: the hash that is checked here, and mosquitto's, empty where there is none."""

    scrypt: Scrypt
    mosquitto: str = ""


class Users(dict[str, User]):
    """The users of a file by name."""

    @classmethod
    def load(cls, path: str | Path) -> Users:
        """Read a file; SettingsError names the file, the line and what is wrong there."""
        users = cls()
        for number, line in enumerate(_read(Path(path)), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                name, user = _parse(line)
                if name in users:
                    raise ValueError(f"user {name!r} is there already")
            except ValueError as error:
                raise SettingsError(f"users: {path}, line {number}: {error}") from None
            users[name] = user
        return users

    def check(self, name: str, password: bytes) -> bool:
        """Whether this is the user's password; an unknown user costs the same time as a known one."""
        known = self.get(name)
        scrypt = known.scrypt if known else Scrypt(*COST, os.urandom(16), os.urandom(32))
        return scrypt.fits(password) and known is not None


def set_password(path: Path, name: str, password: str) -> None:
    """Give a user a password, new or other; the file is made where there is none. Raises SettingsError."""
    if not (_NAME.fullmatch(name) and name.isprintable()):
        raise SettingsError(
            f"user {name!r:.80} is no name; valid: 1 to 64 printable characters, no space and none of : + # / %"
        )
    if not password:
        raise SettingsError("the password is empty; valid: at least one character")
    try:
        secret = password.encode()
    except UnicodeEncodeError:  # what Python makes of other bytes on standard input
        raise SettingsError("the password is no text in UTF-8") from None
    line = f"{name}:{Scrypt.of(secret)}:{mosquitto_hash(secret)}"
    with _changing(path):
        _write(path, [*_others(path, name, missing_ok=True), line])


def delete_user(path: Path, name: str) -> None:
    """Take a user away; SettingsError where there is none of the name."""
    with _changing(path):
        if name not in Users.load(path):
            raise SettingsError(f"users: {path} has no user {name!r}")
        _write(path, _others(path, name))


def mosquitto_hash(password: bytes) -> str:
    """The hash of a password that mosquitto 1.6 and later read: `$7$ITERATIONS$SALT$HASH`."""
    salt = os.urandom(_MOSQUITTO_SALT)
    digest = hashlib.pbkdf2_hmac("sha512", password, salt, ITERATIONS)
    return f"$7${ITERATIONS}${_text(salt)}${_text(digest)}"


def _parse(line: str) -> tuple[str, User]:
    name, _, hashes = line.partition(":")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r:.80} is no name of a user")
    scrypt, _, mosquitto = hashes.partition(":")
    if mosquitto and not _MOSQUITTO.fullmatch(mosquitto):
        raise ValueError("the second hash is not of the form $7$ITERATIONS$SALT$HASH")
    return name, User(Scrypt.parse(scrypt), mosquitto)


def _others(path: Path, name: str, missing_ok: bool = False) -> Iterator[str]:
    """The file's lines but that of the user; a file that is wrong somewhere is not written over."""
    if missing_ok and not path.exists():
        return
    Users.load(path)
    yield from (line for line in _read(path) if line.partition(":")[0] != name)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"users: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"users: {path}: no text in UTF-8") from None


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """What is read here is still so when it is written."""
    try:
        with locked(path):
            yield
    except OSError as error:
        raise SettingsError(f"users: {path}: {error.strerror}") from None


def _write(path: Path, lines: Iterable[str]) -> None:
    write_file(path, "".join(f"{line}\n" for line in lines).encode())


def _scrypt(password: bytes, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=128 * r * (n + p + 4), dklen=size)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""The file of a store: its tables, and whether it is one that this broker may use."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

from broker.errors import SettingsError
from broker.files import PRIVATE

VERSION = 1
"""Of the tables; another one is refused."""
APPLICATION = 0x53434252
"""SQLite's application id of such a file."""
LOCK_S = 2.0
"""How long another process may keep the file after it was killed."""
LOG_BYTES = 64 << 20
"""What the write-ahead log keeps of its size after a burst."""

TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "session": (("id",), ("client_id", "expiry_s", "expires_at", "offered")),
    "subscription": (
        ("session", "topic_filter"),
        ("qos", "no_local", "retain_as_published", "identifier"),
    ),
    "message": (("id",), ("topic", "payload", "qos", "retain", "properties", "expires_at")),
    "delivery": (("id",), ("session", "message", "qos", "retain", "identifiers", "packet_id", "offered")),
    "received": (("session", "packet_id"), ()),
    "retained": (("topic",), ("message",)),
    "will": (("session",), ("topic", "payload", "qos", "retain", "properties", "due_at")),
}
"""Columns of the key, and the others. Ids count up and are never used again while what they name is in the file."""


def open_file(path: str) -> sqlite3.Connection:
    """The database, locked for this process, with its tables; SettingsError where it is none of ours."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))
        database = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"store: {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        _prepare(database)
        _keep_private(path)
    except (OSError, sqlite3.Error, ValueError) as error:
        database.close()
        locked = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
        raise SettingsError(f"store: {path}: {'another broker uses it' if locked else error}") from None
    return database


def _keep_private(path: str) -> None:
    """Let nobody but the owner read the file, also one that was there before, and what SQLite has beside it."""
    for name in (path, f"{path}-wal", f"{path}-journal"):
        with suppress(FileNotFoundError):
            if os.stat(name).st_mode & ~PRIVATE & 0o777:
                os.chmod(name, PRIVATE)


def _prepare(database: sqlite3.Connection) -> None:
    execute = database.execute
    execute("PRAGMA locking_mode = EXCLUSIVE")
    execute("PRAGMA synchronous = FULL")
    execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    execute("BEGIN EXCLUSIVE")
    (application,) = execute("PRAGMA application_id").fetchone()
    (version,) = execute("PRAGMA user_version").fetchone()
    (tables,) = execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION:
        raise ValueError("a database, but none of this broker")
    if tables and version != VERSION:
        raise ValueError(f"its tables have version {version}; valid: {VERSION}")
    if tables:
        (state,) = execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise ValueError(" ".join(state.split()))
    else:
        for table, (key, others) in TABLES.items():
            execute(f"CREATE TABLE {table} ({_columns(key, others)})")
        execute(f"PRAGMA application_id = {APPLICATION}")
        execute(f"PRAGMA user_version = {VERSION}")
    execute("COMMIT")
    execute("PRAGMA journal_mode = WAL")


def _columns(key: tuple[str, ...], others: tuple[str, ...]) -> str:
    if key == ("id",):
        return ", ".join(("id INTEGER PRIMARY KEY", *others))
    return f"{', '.join(key + others)}, PRIMARY KEY ({', '.join(key)})"

"""A file that follows the state of the broker: what changes is collected, and committed together by a thread.

A batch is the difference between the file and the state: what comes and goes again within one batch is never written.
The next batch is handed over when the one before it is on the disk (group commit), and always between two calls of the
event loop, so that what one packet changes is in the file as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broker.errors import SettingsError
from broker.files import PRIVATE

_log = logging.getLogger(__name__)

VERSION = 1
"""Of the tables; another one is refused."""
APPLICATION = 0x53434252
"""SQLite's application id of such a file."""
LOCK_S = 2.0
"""How long another process may keep the file after it was killed."""
RETRY_S = 1.0
"""How long after a failure the batch is tried again."""
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

Key = tuple[Any, ...]
Row = tuple[Any, ...]
_Place = tuple[str, Key]
_Batch = dict[_Place, tuple[Row | None, bool]]  # None to delete; True for what the file cannot hold yet


class Store:
    """The file of one broker, and of no other at the same time. For one event loop only.

    `batch` is the number of the batch that collects changes now and `committed` that of the last one on the disk;
    `changes` counts changes, and `failure` says why the file cannot be written, empty while it can. Raises
    SettingsError for a file that cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.batch = 1
        self.committed = 0
        self.changes = self._handed_over = 0
        self.failure = ""
        self._loop = asyncio.get_running_loop()
        self._collected: _Batch = {}
        self._writing: _Batch = {}
        self._next_flush: asyncio.Handle | None = None
        self._busy = self._closed = False
        self._waiting: dict[Callable[[], None], None] = {}
        self._database = _open(path)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")

    def read(self, table: str) -> Iterator[Row]:
        """All rows of a table, key first, in the order of the keys. Raises SettingsError."""
        key, others = TABLES[table]
        try:
            yield from self._database.execute(
                f"SELECT {', '.join(key + others)} FROM {table} ORDER BY {', '.join(key)}"
            )
        except sqlite3.Error as error:
            raise SettingsError(f"store: {self.path}: {error}") from None

    def add(self, table: str, number: int, row: Row) -> None:
        """A row under an id that was never used before."""
        self._change((table, (number,)), row, True)

    def put(self, table: str, key: Key, row: Row) -> None:
        """A row that is new or takes the place of another."""
        self._change((table, key), row, False)

    def remove(self, table: str, *key: Any) -> None:
        """Remove the row, if there is one."""
        place = table, key
        if self._collected.get(place, (None, False))[1]:
            del self._collected[place]
            self._changed()
        else:
            self._change(place, None, False)

    def settled(self, callback: Callable[[], None]) -> None:
        """Call back, once, when a batch is committed or could not be."""
        self._waiting[callback] = None

    def close(self) -> None:
        """Commit what is left and close the file; later changes are not written."""
        self._stop()
        try:
            self._write(self._writing | self._collected)
        except sqlite3.Error as error:
            _log.error("store: %s: not all is written: %s", self.path, error)
        self._database.close()

    def abandon(self) -> None:
        """Close the file and leave it as it is."""
        self._stop()
        self._database.close()

    def _stop(self) -> None:
        self._busy = self._closed = True
        if self._next_flush is not None:
            self._next_flush.cancel()
        self._writer.shutdown()

    def _change(self, place: _Place, row: Row | None, new: bool) -> None:
        self._collected[place] = row, new
        self._changed()

    def _changed(self) -> None:
        self.changes += 1
        if not self._busy:
            self._busy = True
            self._next_flush = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._writing, self._collected = self._collected, {}
        self._handed_over = self.changes
        self.batch += 1
        self._loop.run_in_executor(self._writer, self._write, self._writing).add_done_callback(self._written)

    def _written(self, done: asyncio.Future[None]) -> None:
        if self._closed:
            return
        error = done.exception()
        if error is None:
            self.committed = self.batch - 1
            # What has come and gone leaves nothing to write, and still somebody may wait for its batch.
            self._busy = self.changes > self._handed_over
            if self.failure:
                _log.warning("store: %s: can be written again", self.path)
        else:
            self._collected = self._writing | self._collected
            if not self.failure:
                _log.error("store: %s: %s; no message is accepted until it can be written", self.path, error)
        self.failure = str(error or "")
        self._writing = {}
        waiting, self._waiting = self._waiting, {}
        if self.failure:
            self._next_flush = self._loop.call_later(RETRY_S, self._flush)
        elif self._busy:
            self._flush()
        for callback in waiting:
            callback()

    def _write(self, batch: _Batch) -> None:
        """In the thread: one transaction, on the disk when this returns. Raises sqlite3.Error."""
        if not batch:
            return
        execute = self._database.execute
        with self._database:
            execute("BEGIN IMMEDIATE")
            for (table, key), (row, _) in batch.items():
                if row is None:
                    execute(_DELETE[table], key)
                else:
                    execute(_REPLACE[table], key + row)


_DELETE = {
    table: f"DELETE FROM {table} WHERE {' AND '.join(f'{column} = ?' for column in key)}"
    for table, (key, _) in TABLES.items()
}
_REPLACE = {
    table: f"REPLACE INTO {table} VALUES ({', '.join('?' * len(key + others))})"
    for table, (key, others) in TABLES.items()
}


def _open(path: str) -> sqlite3.Connection:
    """The database, locked for this process, with its tables; SettingsError where it is none of ours."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))
        database = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"store: {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        _prepare(database)
    except (sqlite3.Error, ValueError) as error:
        database.close()
        locked = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
        raise SettingsError(f"store: {path}: {'another broker uses it' if locked else error}") from None
    return database


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

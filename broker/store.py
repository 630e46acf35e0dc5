"""A file that follows the state of the broker: what changes is collected, and committed together by a thread.

A batch is the difference between the file and the state: what comes and goes again within one batch is never written.
The next batch is handed over when the one before it is on the disk (group commit), and always between two calls of the
event loop, so that what one packet changes is in the file as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broker.errors import SettingsError
from broker.store_file import TABLES, open_file

_log = logging.getLogger(__name__)

RETRY_S = 1.0
"""How long after a failure the batch is tried again."""

Key = tuple[Any, ...]
Row = tuple[Any, ...]
_Place = tuple[str, Key]
_Batch = dict[_Place, tuple[Row | None, bool]]  # None to delete; True for what the file cannot hold yet


class Store:
    """The file of one broker, and of no other at the same time. For one event loop only.

    `batch` is the number of the batch that collects changes now and `committed` that of the last one on the disk;
    `changes` counts changes, `commits` what was committed and `commit_s` the seconds that it took; `failure` says why
    the file cannot be written, empty while it can. Raises SettingsError for a file that cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.batch = 1
        self.committed = 0
        self.changes = self._handed_over = 0
        self.commits, self.commit_s = 0, 0.0
        self.failure = ""
        self._loop = asyncio.get_running_loop()
        self._collected: _Batch = {}
        self._writing: _Batch = {}
        self._next_flush: asyncio.Handle | None = None
        self._busy = self._closed = False
        self._waiting: dict[Callable[[], None], None] = {}
        self._database = open_file(path)
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
        self._loop.run_in_executor(self._writer, self._commit, self._writing).add_done_callback(self._written)

    def _written(self, done: asyncio.Future[float]) -> None:
        if self._closed:
            return
        error = done.exception()
        if error is None:
            self.committed = self.batch - 1
            self.commits += bool(self._writing)
            self.commit_s += done.result()
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

    def _commit(self, batch: _Batch) -> float:
        """In the thread: write the batch; returns the seconds that it took."""
        began = time.perf_counter()
        self._write(batch)
        return time.perf_counter() - began

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

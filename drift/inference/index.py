"""Which lines are there, by key, and where each stands: in SQLite, so that memory does not grow with their number."""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import Any

Key = tuple[Any, ...]


class Index:
    """Keys with their places. A temporary database: what does not fit its cache of 2 MB goes to a file of its own.

    Of a key that is added twice the first place counts. Any thread may ask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._places.close)  # Python 3.13 warns of one that is left open
        self._places.execute("CREATE TABLE places (key TEXT PRIMARY KEY, part TEXT, place INTEGER) WITHOUT ROWID")
        self._places.execute("BEGIN")  # for ever: nobody else reads it, and it goes with the process
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: Key) -> bool:
        return self.find(key) is not None

    def add(self, key: Key, part: Path, place: int) -> None:
        """The line of ``key`` begins at byte ``place`` of the file ``part``."""
        row = (json.dumps(key), str(part), place)
        with self._lock:
            self._count += self._places.execute("INSERT OR IGNORE INTO places VALUES (?, ?, ?)", row).rowcount

    def find(self, key: Key) -> tuple[Path, int] | None:
        """The place of a key's line."""
        with self._lock:
            found = self._places.execute("SELECT part, place FROM places WHERE key = ?", (json.dumps(key),)).fetchone()
        return found and (Path(found[0]), found[1])

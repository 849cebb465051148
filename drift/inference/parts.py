"""Replies on disk: JSON lines in parts, appended to while a run lasts.

A line's key is what its ``columns`` hold. A line is one unbuffered write, so a killed process leaves at most one torn
line, the last of the last part. Memory does not grow with the number of lines.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from drift.ground.errors import DataError
from drift.inference.index import Index, Key

ROWS_PER_PART = 200
SHARD = 0

Row = dict[str, Any]


def key_of(row: Row, columns: Sequence[str]) -> Key:
    """The row's values in the columns that tell it from others."""
    return tuple(row[column] for column in columns)


class Parts:
    """The parts in a folder: what is there already, and where the next line goes.

    ``key in parts.done`` and ``len(parts.done)`` say what is there, whoever wrote it. One process writes a folder.
    """

    def __init__(self, folder: Path, fingerprint: str, columns: Sequence[str]) -> None:
        """Raises DataError if the folder was begun with other settings or holds a broken line."""
        self.folder = folder
        self.columns = columns
        self.done = Index()
        self.rows_in_last = 0
        self.sequence = _next_sequence(folder)
        for path in part_files(folder):
            truncate_torn_line(path)
            self.rows_in_last = 0
            for place, row in _placed(path, columns):
                _require_same(row, fingerprint, path)
                self.done.add(key_of(row, columns), path, place)
                self.rows_in_last += 1

    def rows(self) -> Iterator[Row]:
        """All lines, in the order they were written."""
        for path in part_files(self.folder):
            yield from read_part(path, self.columns)

    def row(self, key: Key) -> Row | None:
        """The line of a key, if it is there."""
        line = _line_at(self.done, key)
        return None if line is None else json.loads(line)

    def append(self, row: Row) -> None:
        """One more line, at the end of the last part or in a new one."""
        if self.sequence == 0 or self.rows_in_last >= ROWS_PER_PART:
            self.sequence += 1
            self.rows_in_last = 0
        with part_path(self.folder, self.sequence - 1).open("ab", buffering=0) as file:
            place = file.tell()
            if file.write(line := _line(row)) < len(line):  # else the next one would be torn into it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))
        self.rows_in_last += 1
        self.done.add(key_of(row, self.columns), Path(file.name), place)


def part_path(folder: Path, sequence: int) -> Path:
    """Path of one part."""
    return folder / f"part-{SHARD:05d}-{sequence:05d}.jsonl"


def part_files(folder: Path) -> list[Path]:
    """All parts, in order."""
    return sorted(folder.glob("part-*.jsonl"))


def _next_sequence(folder: Path) -> int:
    """One more than the highest there is: a run killed while parts were sorted leaves gaps."""
    return max((int(path.stem.rpartition("-")[2]) for path in part_files(folder)), default=-1) + 1


def read_part(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of one part. Raises DataError naming the line that is no reply."""
    return (row for _, row in _placed(path, columns))


def _placed(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Each row with the byte at which its line begins."""
    place = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        yield place, read_line(line, columns, path, number)
        place += len(line)


def read_line(line: bytes, columns: Sequence[str], path: Path, number: int) -> Row:
    """The row of one line. Raises DataError naming it if it is no reply."""
    try:
        row: Row = json.loads(line)
        key_of(row, [*columns, "text"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: line {number} is no reply ({type(error).__name__}: {error})") from error
    return row


def truncate_torn_line(path: Path) -> None:
    """Cut off what follows the last newline: a line that a killed process did not finish."""
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as file:
            file.truncate(complete)


def sort_parts(folder: Path, columns: Sequence[str], keys: Iterable[Key]) -> None:
    """Rewrite all parts in the order of ``keys``, each key once, so that equal runs give equal bytes.

    ``keys`` holds at least the key of every line; what has no line is passed over. Lines are read one by one. Complete
    copies are there before the first original goes: killed at any point, nothing is lost, and the same call goes on.
    Raises DataError for a line of another key.
    """
    originals = part_files(folder)
    index = Index()
    for path in originals:
        for place, row in _placed(path, columns):
            index.add(key_of(row, columns), path, place)
    lines = (line for key in keys if (line := _line_at(index, key)) is not None)
    first, copies, written = _next_sequence(folder), 0, 0
    while some := list(islice(lines, ROWS_PER_PART)):
        part_path(folder, first + copies).write_bytes(b"".join(some))
        copies, written = copies + 1, written + len(some)
    if written < len(index):
        raise DataError(f"{folder}: {len(index) - written} replies to what was not asked; remove the folder")
    for path in originals:
        path.unlink()
    for sequence in range(copies):
        part_path(folder, first + sequence).rename(part_path(folder, sequence))


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _line_at(index: Index, key: Key) -> bytes | None:
    found = index.find(key)
    if found is None:
        return None
    path, place = found
    with path.open("rb") as file:
        file.seek(place)
        return file.readline()


def _require_same(row: Row, fingerprint: str, path: Path) -> None:
    if row.get("fingerprint") != fingerprint:
        raise DataError(
            f"{path}: begun with another model, prompt, other limits or data (fingerprint {row.get('fingerprint')}, "
            f"now {fingerprint}); restore the settings, or remove {path.parent} to begin anew"
        )

"""Replies on disk: JSON lines in parts, appended to while a run lasts.

A line's key is what its ``columns`` hold. A line is one unbuffered write, so a killed process leaves at most one torn
line, the last of the last part.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from drift.ground.errors import DataError

ROWS_PER_PART = 200
SHARD = 0

Row = dict[str, Any]
Key = tuple[Any, ...]


def key_of(row: Row, columns: Sequence[str]) -> Key:
    """The row's values in the columns that tell it from others."""
    return tuple(row[column] for column in columns)


class Parts:
    """The parts in a folder: what is there already, and where the next line goes."""

    def __init__(self, folder: Path, fingerprint: str, columns: Sequence[str]) -> None:
        """Raises DataError if the folder was begun with other settings or holds a broken line."""
        self.folder = folder
        self.columns = columns
        self.done: set[Key] = set()
        self.rows_in_last = 0
        self.sequence = _next_sequence(folder)
        for path in part_files(folder):
            truncate_torn_line(path)
            self.rows_in_last = 0
            for row in read_part(path, columns):
                _require_same(row, fingerprint, path)
                self.done.add(key_of(row, columns))
                self.rows_in_last += 1

    def rows(self) -> Iterator[Row]:
        """All lines, in the order they were written."""
        for path in part_files(self.folder):
            yield from read_part(path, self.columns)

    def append(self, row: Row) -> None:
        """One more line, at the end of the last part or in a new one."""
        if self.sequence == 0 or self.rows_in_last >= ROWS_PER_PART:
            self.sequence += 1
            self.rows_in_last = 0
        with part_path(self.folder, self.sequence - 1).open("ab", buffering=0) as file:
            if file.write(line := _line(row)) < len(line):  # else the next one would be torn into it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))
        self.rows_in_last += 1
        self.done.add(key_of(row, self.columns))


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
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        yield read_line(line, columns, path, number)


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


def sort_parts(folder: Path, columns: Sequence[str], order: Callable[[Key], Any]) -> None:
    """Rewrite all parts in the order of their keys, each key once, so that equal runs give equal bytes.

    Complete copies are there before the first original goes: killed at any point, nothing is lost.
    """
    originals = part_files(folder)
    rows = {key_of(row, columns): row for path in reversed(originals) for row in read_part(path, columns)}
    lines = [_line(rows[key]) for key in sorted(rows, key=order)]
    first = _next_sequence(folder)
    copies: list[Path] = []
    for start in range(0, len(lines), ROWS_PER_PART):
        copies.append(part_path(folder, first + len(copies)))
        copies[-1].write_bytes(b"".join(lines[start : start + ROWS_PER_PART]))
    for path in originals:
        path.unlink()
    for sequence, path in enumerate(copies):
        path.rename(part_path(folder, sequence))


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _require_same(row: Row, fingerprint: str, path: Path) -> None:
    if row.get("fingerprint") != fingerprint:
        raise DataError(
            f"{path}: begun with another model, prompt, other limits or data (fingerprint {row.get('fingerprint')}, "
            f"now {fingerprint}); restore the settings, or remove {path.parent} to begin anew"
        )

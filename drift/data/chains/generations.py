"""What the teacher wrote, as `drift generate` leaves it for the next step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drift.ground.errors import DataError
from drift.inference.parts import Row, part_files, read_part

KEY = ("id", "sample")


def read_generations(folder: Path) -> Iterator[Row]:
    """All rows of a complete folder. Raises DataError if there is none."""
    if not part_files(folder):
        raise DataError(f"{folder}: no part-*.jsonl; run `drift generate` first")
    for path in part_files(folder):
        yield from read_part(path, KEY)


def full_text(row: Row) -> str:
    """The text with its reasoning inside, also where a server parted the two."""
    return f"<think>\n{row['reasoning'].strip()}\n</think>\n\n{row['text']}" if row.get("reasoning") else row["text"]

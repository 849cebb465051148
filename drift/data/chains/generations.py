"""What the teacher wrote, as `drift generate` leaves it for the next step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drift.ground.errors import DataError
from drift.inference.parts import Row, part_files, read_part

KEY = ("id", "sample")


def read_generations(folder: Path) -> Iterator[Row]:
    """All rows of a complete folder. Raises DataError if there is none."""
    for path in generation_files(folder):
        yield from read_part(path, KEY)


def generation_files(folder: Path) -> list[Path]:
    """The parts of a complete folder, in order. Raises DataError if there is none."""
    if not (files := part_files(folder)):
        raise DataError(f"{folder}: no part-*.jsonl; run `drift generate` first")
    return files


def full_text(row: Row) -> str:
    """The text with its reasoning inside, also where a server parted the two; what is no Unicode becomes `?`."""
    text = f"<think>\n{row['reasoning'].strip()}\n</think>\n\n{row['text']}" if row.get("reasoning") else row["text"]
    return text if text.isascii() else text.encode(errors="replace").decode()

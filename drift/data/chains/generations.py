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

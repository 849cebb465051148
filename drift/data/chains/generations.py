"""What the teacher wrote, as `drift generate` leaves it for the next step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drift.data.chains.shards import require_all
from drift.ground.artifacts import read_json
from drift.ground.errors import DataError
from drift.inference.parts import Row, part_files, read_part

KEY = ("id", "sample")
SUMMARY_FILE = "generations.json"


def read_generations(*folders: Path) -> Iterator[Row]:
    """All rows of a complete folder, or of the folders of all shards, one after the other. Raises DataError.

    The rows of each folder are in the order of the problems; those of one problem may lie in two, if a batch ends
    between its samples.
    """
    for path in generation_files(*folders):
        yield from read_part(path, KEY)


def generation_files(*folders: Path) -> list[Path]:
    """The parts of a complete folder, or of all shards. Raises DataError: there are none, or a shard is missing."""
    for folder in folders:
        empty_shard = len(folders) > 1 and (folder / SUMMARY_FILE).is_file()
        if not (part_files(folder) or empty_shard):
            raise DataError(f"{folder}: no part-*.jsonl; run `drift generate` first")
    require_all([(folder, said) for folder in folders if (said := _said(folder))])
    return [path for folder in folders for path in part_files(folder)]


def full_text(row: Row) -> str:
    """The text with its reasoning inside, also where a server parted the two; what is no Unicode becomes `?`."""
    text = f"<think>\n{row['reasoning'].strip()}\n</think>\n\n{row['text']}" if row.get("reasoning") else row["text"]
    return text if text.isascii() else text.encode(errors="replace").decode()


def _said(folder: Path) -> dict[str, Any]:
    """What `drift generate` says of the folder; nothing for parts that were put there by hand."""
    return dict(read_json(path)) if (path := folder / SUMMARY_FILE).is_file() else {}

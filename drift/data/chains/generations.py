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
    for folder in folders:
        empty_shard = len(folders) > 1 and (folder / SUMMARY_FILE).is_file()
        if not (part_files(folder) or empty_shard):
            raise DataError(f"{folder}: no part-*.jsonl; run `drift generate` first")
    require_all([(folder, _said(folder)) for folder in folders])
    for path in (path for folder in folders for path in part_files(folder)):
        yield from read_part(path, KEY)


def _said(folder: Path) -> dict[str, Any]:
    """What `drift generate` says of the folder; nothing for parts that were put there by hand."""
    return dict(read_json(path)) if (path := folder / SUMMARY_FILE).is_file() else {}

"""What a data folder holds, for people: rows by columns that may be missing, and a draw of them with their images."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.data import tables
from drift.data.tables import Row
from drift.inference.images import image_bytes


def known_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a table with ``columns`` alone, None where the table, an old one perhaps, has no such column."""
    names = tables.open_parquet(path).schema_arrow.names
    for row in tables.read_rows(path, [name for name in columns if name in names]):
        yield {name: row.get(name) for name in columns}


def rows_at(path: Path, places: Iterable[int], columns: Sequence[str]) -> list[Row]:
    """The rows at ``places``, in their order; only the row groups that hold them are read."""
    file, wanted, first = tables.open_parquet(path), set(places), 0
    known = [name for name in columns if name in file.schema_arrow.names]
    found: list[Row] = []
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if here := sorted(place - first for place in wanted if first <= place < first + size):
            found += file.read_row_group(group, known).take(here).to_pylist()
        first += size
    return [{name: row.get(name) for name in columns} for row in found]


def draw(strata: Iterable[Any], limit: int, seed: int) -> list[int]:
    """Places of at most ``limit`` rows, whose strata are given in turn: as many of each stratum, where it has them."""
    members: dict[Any, list[int]] = defaultdict(list)
    for place, stratum in enumerate(strata):
        members[stratum].append(place)
    for stratum, places in members.items():
        random.Random(f"{seed}/{stratum}").shuffle(places)
    ranked = sorted((rank, place) for places in members.values() for rank, place in enumerate(places))
    return sorted(place for _, place in ranked[:limit])


def first_images(row: Mapping[str, Any], folder: Path) -> list[bytes]:
    """A row's encoded images; none where it has none, or they are not to be found."""
    return image_bytes(row["images"], folder) or [] if row.get("images") else []

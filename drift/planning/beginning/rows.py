"""Which columns of a source hold question, answer and image: by their names, then held against the first rows."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.data import IngestConfig
from drift.config.section import validate
from drift.data.problems.files import Broken
from drift.data.problems.formats import Rejected, read_entry, recognise
from drift.data.problems.ingestion import Reading, read_problems
from drift.data.problems.sources import columns_of, count_problems, open_source
from drift.ground.errors import ConfigError

FIRST = 50
"""So many rows are looked at."""
KEY = "--data"
NAMES = {
    "problem_column": ("problem", "question", "query", "instruction", "prompt", "text"),
    "answer_column": ("answer", "gold", "label", "target", "solution", "ground_truth", "response", "output"),
    "image_column": ("image", "images", "picture", "pictures", "photo", "image_path", "img", "file_name"),
    "choices_column": ("choices", "options"),
}
"""What people call them, the likeliest first."""
TABLES = (".csv", ".json", ".jsonl", ".parquet", ".tsv")
FLAGS = {"problem_column": "--question", "answer_column": "--answer", "image_column": "--image"}


@dataclass(frozen=True)
class Rows:
    """What is known of a source: keys of `ingest` beside their defaults, rows in all, what the first ones are."""

    keys: dict[str, Any]
    count: int | None
    said: str
    brings_chains: bool


def look(source: str, named: dict[str, str]) -> Rows:
    """A source whose columns are ``named``, or called as people call them.

    Raises DataError for one that cannot be read or has no usable row among the first, ConfigError for a column that
    nobody named and no name tells.
    """
    columns = columns_of(IngestConfig(source=source), KEY)
    keys = {"source": source, **_columns(source, columns, named)}
    config = validate(IngestConfig, {**keys, "limit": FIRST, "max_rejected": 1.0}, where="ingest")
    reading = Reading()
    usable = len(list(read_problems(config, reading, KEY)))
    whole = validate(IngestConfig, keys, where="ingest")
    said = _said(reading, usable, whole.max_rejected)
    return Rows(keys, count_problems(whole), said, _brings_chains(config))


def _columns(source: str, columns: Sequence[str], named: dict[str, str]) -> dict[str, str]:
    """The keys of columns that are not called what `ingest` takes by default."""
    found = {key: _named(names, columns) for key, names in NAMES.items()} | named
    form = recognise(IngestConfig(source=source), columns)
    if form != "columns" and not named and not found["choices_column"]:
        own = {"image_column": found["image_column"]}
        return {key: name for key, name in own.items() if name and name not in ("image", "images")}
    if missing := [key for key in FLAGS if not found[key]]:
        raise _not_named(source, columns, missing)
    plain = {"problem_column": ("problem",), "answer_column": ("answer",), "image_column": ("image", "images")}
    return {key: name for key, name in found.items() if name and name not in plain.get(key, ())}


def _not_named(source: str, columns: Sequence[str], missing: Sequence[str]) -> ConfigError:
    sought = "; ".join(f"ingest.{key}: no column of '{source}' is called {', '.join(NAMES[key])}" for key in missing)
    flags = " ".join(f"{FLAGS[key]} COLUMN" for key in missing)
    tables = sorted(path.name for path in Path(source).glob("*.*") if path.suffix in TABLES)
    instead = f", or give a file of it: {', '.join(tables)}" if tables else ""
    return ConfigError(f"{sought}; it has {', '.join(columns)}: say {flags}{instead}")


def _named(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """The first column that is called so, whatever its capitals."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def _said(reading: Reading, usable: int, limit: float) -> str:
    reasons = "".join(f", {count} rejected ({reason})" for reason, count in reading.reasons().items())
    stops = len(reading.rejects) > limit * reading.read
    more = f"; a run stops at more than ingest.max_rejected: {limit:g}" if stops else ""
    return f"of the first {reading.read} rows {usable} are problems{reasons}{more}"


def _brings_chains(config: IngestConfig) -> bool:
    """Whether a first row has an assistant's turn that thinks before it answers."""
    source = open_source(config, KEY)[0]
    for row in itertools.islice(source.rows, FIRST):
        if isinstance(row, Broken):
            continue
        with contextlib.suppress(Rejected):
            if "</think>" in (read_entry(row, config, source.format).chain or ""):
                return True
    return False

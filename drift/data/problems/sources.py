"""Raw rows of a source: a parquet file, JSON lines, or a dataset on the Hugging Face hub."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.data import IngestConfig
from drift.data import tables
from drift.ground.errors import DataError, ServiceError

PARQUET = {".parquet"}
ROWS_FOR_COLUMNS = 1000
"""JSON lines have no header: a column that none of the first so many rows has is missing."""
JSON_LINES = {".jsonl", ".ndjson", ".json"}


@dataclass(frozen=True)
class Source:
    """Rows in their order, how many (None if only reading tells), and the folder relative image paths start from."""

    rows: Iterator[dict[str, Any]]
    count: int | None
    folder: Path


def open_source(config: IngestConfig, key: str = "ingest.source") -> Source:
    """The rows of ``config.source``; errors name ``key``.

    Raises DataError (missing, broken, or without a needed column) or ServiceError.
    """
    path = Path(config.source)
    if path.is_file() or path.suffix.lower() in PARQUET | JSON_LINES:
        return _open_file(path, config, key)
    return _open_dataset(config, key)


def count_problems(config: IngestConfig) -> int | None:
    """Rows of a file here that would be read; of any other source the limit, which may be None: not known."""
    if not Path(config.source).is_file():
        return config.limit
    source = open_source(config)
    rows = sum(1 for _ in itertools.islice(source.rows, config.limit)) if source.count is None else source.count
    return min(rows, config.limit or rows)


def needed_columns(config: IngestConfig) -> list[str]:
    """The columns that the configuration names, in its order."""
    named = [config.problem_column, config.answer_column, config.image_column, config.choices_column]
    return [name for name in named if name is not None]


def _open_file(path: Path, config: IngestConfig, key: str) -> Source:
    if not path.is_file():
        raise DataError(f"{key}: {path}: no such file")
    if path.suffix.lower() in PARQUET:
        columns = [name for name in _parquet_columns(path) if name in {*needed_columns(config), "source"}]
        _require_columns(config, _parquet_columns(path))
        return Source(tables.read_rows(path, columns), tables.count_rows(path), path.parent)
    if path.suffix.lower() in JSON_LINES:
        if first := list(itertools.islice(_json_lines(path), ROWS_FOR_COLUMNS)):
            _require_columns(config, list(dict.fromkeys(key for row in first for key in row)))
        return Source(_json_lines(path), None, path.parent)
    raise DataError(f"{key}: {path}: neither .parquet nor .jsonl; convert it to one of them")


def _parquet_columns(path: Path) -> list[str]:
    return list(tables.open_parquet(path).schema_arrow.names)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"{path}: line {number} is not JSON ({error}); one object a line is expected"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"{path}: line {number} is not a JSON object; one object a line is expected")
            yield row


def _open_dataset(config: IngestConfig, key: str) -> Source:
    import datasets

    try:
        dataset = datasets.load_dataset(config.source, split=config.split, revision=config.revision)
    except (ConnectionError, TimeoutError, datasets.exceptions.DatasetNotFoundError, OSError, ValueError) as error:
        kind = ServiceError if isinstance(error, ConnectionError | TimeoutError) else DataError
        raise kind(
            f"{key}: '{config.source}' (split '{config.split}') is no file here, and does not load as a hub "
            f"dataset ({type(error).__name__}: {str(error).splitlines()[0]:.200})"
        ) from error
    _require_columns(config, list(dataset.column_names))
    return Source(iter(_undecoded(dataset, config.image_column)), len(dataset), Path.cwd())


def _undecoded(dataset: Any, column: str) -> Any:
    """The dataset with its images left as the bytes they came in."""
    import datasets

    feature = dataset.features[column]
    if isinstance(feature, datasets.Image):
        return dataset.cast_column(column, datasets.Image(decode=False))
    if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
        return dataset.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return dataset


def _require_columns(config: IngestConfig, there: list[str]) -> None:
    for key in ("problem_column", "answer_column", "image_column", "choices_column"):
        name = getattr(config, key)
        if name is not None and name not in there:
            raise DataError(f"ingest.{key}: '{config.source}' has no column '{name}'; it has {', '.join(there)}")

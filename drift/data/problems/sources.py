"""Where problems come from: files, globs of them, folders, and datasets of the hub; one source, or several mixed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.config.data import Format, IngestConfig, matches
from drift.data import tables
from drift.data.problems.files import KINDS, PACKED, Broken, FileRow, kind_of, read_file
from drift.data.problems.formats import READ, TURNS, needed, recognise
from drift.ground.errors import DataError, ServiceError

ROWS_FOR_COLUMNS = 1000
"""Lines have no header: a column that none of the first so many rows has is missing."""
SAVED = ("dataset_info.json", "dataset_dict.json")
"""What `save_to_disk` leaves in a folder."""


@dataclass(frozen=True)
class Source:
    """Rows of one file or dataset, in its order."""

    config: IngestConfig
    """The section for it alone."""
    rows: Iterator[FileRow] = field(repr=False)
    count: int | None
    """How many rows; None if only reading tells."""
    folder: Path
    """Where relative paths of images start."""
    format: Format
    label: str
    """What its rows are called where they do not say it."""


def open_sources(config: IngestConfig) -> list[list[Source]]:
    """Every configured source, as the files or datasets that it stands for.

    Raises DataError (missing, broken, or without a needed column) or ServiceError.
    """
    return [open_source(one, key) for key, one in config.each()]


def open_source(config: IngestConfig, key: str) -> list[Source]:
    """The files of a glob in their order, or the one file or dataset that ``config.source`` is; errors name ``key``."""
    files = _files(config)
    return [_open_file(one, config, key) for one in files] if files else [_open_dataset(config, key)]


def columns_of(config: IngestConfig, key: str) -> list[str]:
    """The columns of ``config.source``, whichever they are; errors name ``key``. Raises DataError or ServiceError."""
    files = _files(config)
    return _columns(_readable(files[0], key)) if files else list(_dataset(config, key).column_names)


def _files(config: IngestConfig) -> list[Path]:
    """The files that ``config.source`` stands for; none for a dataset."""
    path = Path(config.source)
    if found := [] if path.exists() else matches(config.source):
        return found
    if path.is_dir():
        own = [path / f"{config.split}{suffix}{gz}" for suffix in PACKED for gz in ("", ".gz")]
        path = next((file for file in sorted(own) if file.is_file()), path)
    return [path] if path.is_file() or kind_of(path) else []


def mixed(groups: list[list[Source]], config: IngestConfig) -> Iterator[tuple[int, Source, FileRow]]:
    """All rows with the place of their configured source; where these have weights, drawn until one has no more."""
    streams = [_rows(place, group) for place, group in enumerate(groups)]
    weights = [one.weight for one in config.sources if one.weight is not None]
    if not weights:
        yield from itertools.chain.from_iterable(streams)
        return
    generator = random.Random(f"ingest-{config.seed}")
    while drawn := next(generator.choices(streams, weights)[0], None):
        yield drawn


def _rows(place: int, group: list[Source]) -> Iterator[tuple[int, Source, FileRow]]:
    return ((place, source, row) for source in group for row in source.rows)


def count_problems(config: IngestConfig) -> int | None:
    """Rows that would be read, counted where all sources are files here; else the limit, which may be None."""
    if not all(Path(one.source).is_file() or matches(one.source) for _, one in config.each()):
        return config.limit
    groups = open_sources(config)
    counts = [source.count for group in groups for source in group]
    if None in counts or any(one.weight for one in config.sources):
        return sum(1 for _ in itertools.islice(mixed(groups, config), config.limit))
    rows = sum(filter(None, counts))
    return min(rows, config.limit or rows)


def _open_file(path: Path, config: IngestConfig, key: str) -> Source:
    columns = _columns(_readable(path, key))
    label = Path(path.name.removesuffix(".gz")).stem
    if kind_of(path) == ".parquet":
        form = _format(config, columns)
        used = {*needed(config, form, columns).values(), *_named(config), *(READ if form != "columns" else {"source"})}
        rows = tables.read_rows(path, [name for name in columns if name in used])
        return Source(config, rows, tables.count_rows(path), path.parent, form, label)
    form = _format(config, columns) if columns else "columns"
    return Source(config, read_file(path), None, path.parent, form, label)


def _readable(path: Path, key: str) -> Path:
    """The path of a file that can be read. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{key}: {path}: no such file")
    if not kind_of(path):
        known = ", ".join(sorted(KINDS))
        raise DataError(f"{key}: {path}: not one of {known}; convert it to one of them")
    return path


def _columns(path: Path) -> list[str]:
    """Parquet's own; those of the first lines, as lines have no header."""
    if kind_of(path) == ".parquet":
        return list(tables.open_parquet(path).schema_arrow.names)
    first = itertools.islice(read_file(path), ROWS_FOR_COLUMNS)
    return list(dict.fromkeys(name for row in first if not isinstance(row, Broken) for name in row))


def _named(config: IngestConfig) -> set[str]:
    """The top columns that the configuration names."""
    named = [getattr(config, f"{part}_column") for part in ("problem", "answer", "image", "choices", "chain")]
    return {name.partition(".")[0] for name in named if name}


def _open_dataset(config: IngestConfig, key: str) -> Source:
    dataset = _dataset(config, key)
    form = _format(config, list(dataset.column_names))
    folder = Path(config.source) if Path(config.source).is_dir() else Path.cwd()
    return Source(config, iter(_undecoded(dataset)), len(dataset), folder, form, Path(config.source).stem)


def _dataset(config: IngestConfig, key: str) -> Any:
    import datasets

    try:
        return _loaded(config)
    except (ConnectionError, TimeoutError, datasets.exceptions.DatasetsError, OSError, ValueError, KeyError) as error:
        kind = ServiceError if isinstance(error, ConnectionError | TimeoutError) else DataError
        raise kind(
            f"{key}: '{config.source}' (split '{config.split}') is no file here, and does not load as a hub "
            f"dataset ({type(error).__name__}: {str(error).splitlines()[0]:.200})"
        ) from error


def _loaded(config: IngestConfig) -> Any:
    """The split of a folder that `save_to_disk` wrote, or of what `load_dataset` makes of a folder or an id."""
    import datasets

    if any((Path(config.source) / name).is_file() for name in SAVED):
        saved = datasets.load_from_disk(config.source)
        return saved[config.split] if isinstance(saved, datasets.DatasetDict) else saved
    return datasets.load_dataset(config.source, config.name, split=config.split, revision=config.revision)


def _undecoded(dataset: Any) -> Any:
    """The dataset with its images left as the bytes they came in."""
    import datasets

    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return dataset


def _format(config: IngestConfig, there: list[str]) -> Format:
    """The format of rows with these columns. Raises DataError if one that it needs is missing."""
    form = recognise(config, there)
    for key, name in needed(config, form, there).items():
        if name not in there:
            others = f" (nor {', '.join(TURNS)} or question)" if (key, name) == ("problem_column", "problem") else ""
            raise DataError(
                f"ingest.{key}: '{config.source}' has no column '{name}'{others}; it has {', '.join(there)}"
            )
    return form

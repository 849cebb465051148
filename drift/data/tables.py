"""Columns of the data files, and how they are read and written.

Images are stored as they came, in datasets' own form (``{bytes, path}``), so that `datasets.load_dataset` decodes
them. Questions and messages that are written here hold plain strings: an image stands where `<image>` does, and all
before the user's text where it does not occur.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from drift.ground.errors import DataError

PROBLEMS_FILE = "problems.parquet"
CHAINS_FILE = "chains.jsonl"
"""Finished chains beside the problems that they came with: id, sample, text."""
REJECTS_FILE = "rejects.parquet"
TRAIN_FILE = "train.parquet"
FUNNEL_FILE = "funnel.json"
DUPLICATES_FILE = "duplicates.json"
"""Of `drift curate` with `near_duplicates`: pairs of problems that are one, or that contradict each other."""
CONTAMINATED_FILE = "contaminated.json"
"""Problems and replay that `drift curate` found in a table it was to leave out, and in which row."""

Row = dict[str, Any]

_TEXT = Value("string")
MESSAGES = List({"role": _TEXT, "content": _TEXT})

PROBLEMS = Features(
    {
        "id": _TEXT,
        "source": _TEXT,
        "problem": _TEXT,
        "text_problem": _TEXT,
        "gold": _TEXT,
        "choices": List(_TEXT),
        "answer_kind": _TEXT,
        "images": List(Image()),
        "image_sha256": List(_TEXT),
        "width": Value("int32"),
        "height": Value("int32"),
    }
)
PROBLEM_REJECTS = Features({"row": Value("int64"), "reason": _TEXT, "detail": _TEXT})
TRAINING_SET = Features(
    {
        "id": _TEXT,
        "kind": _TEXT,
        "images": List(Image()),
        "messages": MESSAGES,
        "text_problem": _TEXT,
        "answer": _TEXT,
        "source": _TEXT,
        "pass_rate": Value("float64"),
        "n_tokens": Value("int64"),
        "teacher": _TEXT,
    }
)
LATER = frozenset({"text_problem"})
"""Columns that files of an earlier version lack; their rows are then read without."""
GENERATION_REJECTS = Features({"id": _TEXT, "sample": Value("int64"), "stage": _TEXT, "reason": _TEXT, "text": _TEXT})

ROWS_PER_GROUP = 256


def write_rows(path: Path, rows: Iterable[Row], features: Features) -> int:
    """Write ``rows`` as they come, a row group at a time; the number written. The same rows give the same bytes."""
    written = 0
    with pq.ParquetWriter(path, features.arrow_schema, compression="zstd") as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=features.arrow_schema))
            written += len(group)
    return written


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of a parquet file, a row group at a time. Raises DataError: missing, unreadable, or without a column."""
    file = open_parquet(path)
    missing = set(columns or ()) - set(file.schema_arrow.names)
    if required := sorted(missing - LATER):
        raise DataError(f"{path}: no column '{required[0]}'; it has {', '.join(file.schema_arrow.names)}")
    asked = [column for column in columns if column not in missing] if columns else None
    for batch in file.iter_batches(ROWS_PER_GROUP, columns=asked):
        yield from batch.to_pylist()


def count_rows(path: Path) -> int:
    """Number of rows, from the footer. Raises DataError like `read_rows`."""
    return int(open_parquet(path).metadata.num_rows)


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False)  # else all that was read stays in memory until the end
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as parquet ({str(error).splitlines()[0]})") from error


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while group := list(itertools.islice(iterator, ROWS_PER_GROUP)):
        yield group

"""One answered question, and the table of all of them: what every comparison is made from.

Some questions keep a small picture too (`examples.parquet`), for people to look at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from drift.ground.errors import DataError

FILE = "samples.parquet"
EXAMPLES_FILE = "examples.parquet"

JUDGE_FAILED, JUDGE_RANDOM = "the judge gave no usable answer", "VLMEvalKit chose an option at random"

Status = Literal["correct", "incorrect", "unparsed", "undetermined", "failed"]


@dataclass(frozen=True)
class Sample:
    """A question of a benchmark with the model's answer. Only status `correct` counts as right."""

    benchmark: str
    role: str
    index: str
    group: str
    correct: bool
    answer: str | None
    """As extracted; None if the reply holds none."""
    gold: str
    raw: str | None
    """All that the model wrote, without what a server parted off as thinking; None if there is no reply."""
    thinking: str | None
    finish_reason: str | None
    """`stop`, `length`, or None if there is no reply, or a server gave neither."""
    status: Status
    category: str
    part: str
    """Place in its group, where the benchmark's score needs one (`drift.evaluate.formats`)."""
    question: str
    """As asked: in the benchmark's template, with the options."""
    error: str | None
    """Why there is no reply, where there is none; or why the judge did not decide."""
    rule: str | None = None
    """Status by rule, where a judge decides."""
    read: str = ""
    """How the rule found the answer: `boxed`, `declared`, `bare` or `none`; empty in folders of before it was kept."""
    sample: int = 0
    """Which of the answers to this question."""


@dataclass(frozen=True)
class Example:
    """A question's picture, small: WebP, in older folders PNG."""

    benchmark: str
    index: str
    image: bytes


TYPES = {"correct": pa.bool_(), "sample": pa.int64()}
SCHEMA = pa.schema([(field.name, TYPES.get(field.name, pa.string())) for field in dataclasses.fields(Sample)])
ADDED = frozenset({"read", "sample"})
"""Columns that older folders lack."""

EXAMPLES_SCHEMA = pa.schema([("benchmark", pa.string()), ("index", pa.string()), ("image", pa.binary())])


def write_samples(folder: Path, samples: Sequence[Sample], examples: Sequence[Example]) -> None:
    """`samples.parquet` and `examples.parquet`, in the order given."""
    for name, rows, schema in ((FILE, samples, SCHEMA), (EXAMPLES_FILE, examples, EXAMPLES_SCHEMA)):
        table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
        pq.write_table(table, folder / name, compression="zstd")


def read_samples(folder: Path) -> list[Sample]:
    """The samples of a score folder. Raises DataError if they are missing or of another form."""
    return [Sample(**row) for row in _rows(folder / FILE, SCHEMA, ADDED)]


def read_examples(folder: Path) -> list[Example]:
    """The pictures of a score folder. Raises DataError if they are missing or of another form."""
    return [Example(**row) for row in _rows(folder / EXAMPLES_FILE, EXAMPLES_SCHEMA)]


def _rows(path: Path, schema: pa.Schema, added: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    try:
        there = set(pq.read_schema(path).names)
        table = pq.read_table(path, columns=[name for name in schema.names if name in there or name not in added])
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not readable ({reason}); `drift evaluate` writes it") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows

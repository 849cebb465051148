"""Rows of files: parquet, JSON lines, a JSON array, CSV, TSV, these as .gz, and tars in webdataset's form.

Lines come one by one; a JSON array is loaded whole. A line that is broken is a row that says so. Tables are read with
`csv`, since a reader that guesses types makes numbers of golds and nothing of the answer `NA`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data import tables
from drift.data.problems.tsv import REFERENCE_LENGTH
from drift.ground.errors import DataError

LINES = {".jsonl", ".ndjson"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
KINDS = {".parquet", ".json", *LINES, *DELIMITERS, ".tar"}
PACKED = {".json", *LINES, *DELIMITERS}
"""Those that may be compressed with gzip."""


@dataclass(frozen=True)
class Broken:
    """A row that cannot be read: why."""

    why: str


FileRow = dict[str, Any] | Broken


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, without .gz; '' for one that is not."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    return kind if kind in (PACKED if packed else KINDS) else ""


def read_file(path: Path, columns: list[str] | None = None) -> Iterator[FileRow]:
    """All rows; of parquet only ``columns``. Raises DataError if it is not readable as its suffix says."""
    kind = kind_of(path)
    try:
        if kind == ".parquet":
            yield from tables.read_rows(path, columns)
        elif kind == ".tar":
            yield from _tar(path)
        elif kind in DELIMITERS:
            yield from _table(path, DELIMITERS[kind])
        elif kind == ".json" and _begins_array(path):
            yield from _array(path)
        else:
            yield from _lines(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable ({str(error).splitlines()[0]:.200})") from error


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _begins_array(path: Path) -> bool:
    with _open(path) as file:
        return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _array(path: Path) -> Iterator[FileRow]:
    with _open(path) as file:
        try:
            rows = json.loads(file.read().removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error}); an array of objects is expected") from error
    for number, row in enumerate(rows):
        yield row if isinstance(row, dict) else Broken(f"entry {number} is not a JSON object")


def _lines(path: Path) -> Iterator[FileRow]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _object(line, number)


def _object(line: bytes, number: int) -> FileRow:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        return Broken(f"line {number} is not JSON ({error}); one object a line is expected")
    if not isinstance(row, dict):
        return Broken(f"line {number} is not a JSON object; one object a line is expected")
    return row


def _table(path: Path, delimiter: str) -> Iterator[FileRow]:
    """Rows of a table; an image that is another row's index (as in VLMEvalKit's) is that row's."""
    named = {row.get("image") for row in _cells(path, delimiter) if isinstance(row, dict)} if _indexed(path) else set()
    wanted = {one for one in named if isinstance(one, str) and len(one) <= REFERENCE_LENGTH}
    images = {
        row["index"]: row["image"]
        for row in (_cells(path, delimiter) if wanted else ())
        if isinstance(row, dict) and row["index"] in wanted and len(row["image"]) > REFERENCE_LENGTH
    }
    for row in _cells(path, delimiter):
        if isinstance(row, dict) and row.get("image") in images:
            row["image"] = images[row["image"]]
        yield row


def _indexed(path: Path) -> bool:
    with _open(path) as file:
        header = file.readline(65536).lower()
    return b"index" in header and b"image" in header


def _cells(path: Path, delimiter: str) -> Iterator[FileRow]:
    csv.field_size_limit(sys.maxsize if sys.maxsize < 2**31 else 2**31 - 1)  # images are longer than 128 KiB
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.DictReader(file, delimiter=delimiter)
        try:
            for row in table:
                whole = None not in row and None not in row.values()
                told = f"line {table.line_num} has not as many fields as the header"
                yield {column: _cell(cell) for column, cell in row.items()} if whole else Broken(told)
        except csv.Error as error:
            yield Broken(f"line {table.line_num}: {error}")


def _cell(text: str) -> Any:
    """A list in a cell, such as several images, as the list it is."""
    if text.startswith(('["', "[{")) and text.endswith("]"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _tar(path: Path) -> Iterator[FileRow]:
    """Files of one name are a row; those of its JSON are its columns, and its images stand in `images`."""
    import datasets

    shards = datasets.load_dataset("webdataset", data_files=str(path), split="train", streaming=True)
    pictures = [name for name, feature in shards.features.items() if isinstance(feature, datasets.Image)]
    for name in pictures:
        shards = shards.cast_column(name, datasets.Image(decode=False))
    for row in shards:
        told = row.pop("json", None) or {}
        yield {**row, **told, "images": [row[name] for name in pictures if row[name]]}

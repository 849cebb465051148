"""Tables in VLMEvalKit's format: tab-separated, one question a row, its image in base64.

An image cell of at most 64 characters is the index of the row that holds the image.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from drift.config.section import suggest
from drift.ground.errors import DataError

REFERENCE_LENGTH = 64

Row = dict[str, str]


def read_tsv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a table that has ``columns``, cells stripped. Raises DataError: missing, not a table, a column."""
    csv.field_size_limit(sys.maxsize if sys.maxsize < 2**31 else 2**31 - 1)  # images are longer than 128 KiB
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter="\t")
            for column in columns:
                if column not in (table.fieldnames or ()):
                    raise DataError(f"{path}: no column '{column}'{suggest(column, table.fieldnames or ())}")
            for row in table:
                if None in row or None in row.values():
                    raise DataError(f"{path}: line {table.line_num} has not as many fields as the header")
                yield {column: cell.strip() for column, cell in row.items()}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; set evaluate.data or the benchmark's file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable as a tab-separated table ({error})") from error


def image_cell(row: Row, images: Mapping[str, str]) -> str:
    """The image of a row in base64; ``images``: the table's image cells by index."""
    return images.get(row["image"], "") if len(row["image"]) <= REFERENCE_LENGTH else row["image"]

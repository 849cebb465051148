"""Rows of small problem pools, and folders made of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from drift.config.data import IngestConfig
from drift.data.problems.ingestion import ingest

Row = dict[str, Any]


def png(width: int = 56, height: int = 28, shade: int = 200) -> bytes:
    """A grey PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def pool_row(number: int = 0, **changes: Any) -> Row:
    """One usable row; ``number`` makes it unlike the others."""
    return {"problem": f"<image>compute {number} + 1", "answer": str(number + 1), "image": png(shade=100)} | changes


def write_pool(path: Path, rows: list[Row]) -> Path:
    """The rows as a parquet file."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def ingested(folder: Path, rows: list[Row] | int, **config: Any) -> Path:
    """The problems folder of the rows, or of so many usable ones."""
    rows = [pool_row(number) for number in range(rows)] if isinstance(rows, int) else rows
    source = write_pool(folder / "pool.parquet", rows)
    ingest(IngestConfig(source=str(source), **config), folder / "problems")
    return folder / "problems"

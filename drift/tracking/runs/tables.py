"""Tables of a step as MLflow shows them: a bounded sample of the rows, and what a dataset's columns are."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 100
CHARACTERS = 2000
"""Of a text in a sample."""
TABLES = (".parquet", "-00000-00000.jsonl", "funnel.json")
"""Endings of the files that hold one; of a shard's parts the first is sample enough."""
DIGEST_CHARACTERS = 36
"""MLflow's limit for the digest of a dataset."""

Table = dict[str, list[Any]]


def sample(path: Path) -> Table | None:
    """The first rows of a table, without images, as {columns, data}; None if it has neither rows nor columns."""
    if path.suffix == ".parquet":
        rows = _parquet_rows(path)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in itertools.islice(file, SAMPLE_ROWS) if line.endswith("\n")]
    else:
        rows = json.loads(path.read_text(encoding="utf-8"))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[_cell(row.get(name)) for name in columns] for row in rows]} if rows else None


def dataset(entry: Mapping[str, str]) -> dict[str, str]:
    """What MLflow's Dataset takes of an input {name, digest, uri}: with columns and rows, where it is a table here."""
    told: dict[str, Any] = {"sha256": entry["digest"]}
    described = {"name": entry["name"], "digest": entry["digest"][:DIGEST_CHARACTERS], "source_type": _kind(entry)}
    found = sorted(Path(entry["uri"]).glob("*.parquet")) if entry["uri"].startswith("/") else []
    held = max(found, key=lambda path: path.stat().st_size, default=None)
    with contextlib.suppress(Exception):  # a table that cannot be read is its reader's to report
        if held:
            import pyarrow.parquet as pq

            file = pq.ParquetFile(held)
            columns = [{"name": field.name, "type": _type(field.type)} for field in file.schema_arrow]
            described["schema"] = json.dumps({"mlflow_colspec": columns})
            told["num_rows"] = file.metadata.num_rows
    return described | {"source": json.dumps({"uri": entry["uri"]}), "profile": json.dumps(told)}


def _kind(entry: Mapping[str, str]) -> str:
    scheme, separator, _ = entry["uri"].partition("://")
    return scheme if separator else "local"


def _type(kind: pa.DataType) -> str:
    """MLflow's word for a column's type; what it has none for is an object."""
    words = {"int32": "integer", "int64": "long", "float": "float", "double": "double", "bool": "boolean"}
    return words.get(str(kind), "string" if str(kind).endswith("string") else "object")


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names = [field.name for field in file.schema_arrow if "binary" not in str(field.type)]
    batches = file.iter_batches(SAMPLE_ROWS, columns=names)
    return next((batch.to_pylist() for batch in batches), [])


def _cell(value: Any) -> Any:
    """As JSON knows it, and no longer than is read."""
    if isinstance(value, str):
        return value if len(value) <= CHARACTERS else value[:CHARACTERS] + "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    return _cell(json.dumps(value, ensure_ascii=False, default=str))

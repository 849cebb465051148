"""`drift verify`: a file of pairs, each judged as the training filter and the benchmark scores would.

A line of the file is an object with `gold` and `response` (a whole reply or a bare answer), and may have `choices`,
`kind` and `correct` (what is right, to count how far the rules agree). Other keys are kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.ground.errors import DataError
from drift.verdicts.answers import read_reply
from drift.verdicts.comparison import KINDS
from drift.verdicts.verdict import TIMEOUT_SECONDS, Item, verify_many

Row = dict[str, Any]


@dataclass(frozen=True)
class VerifyReport:
    """The rows with `status`, `extracted`, `read` and `method`, and how many there are of each."""

    rows: list[Row]

    def metrics(self) -> dict[str, float]:
        """Counts by status and by how answers were read; of rows that say what is right, where the rules differ."""
        statuses = Counter(f"status/{row['status']}" for row in self.rows)
        reads = Counter(f"read/{row['read']}" for row in self.rows)
        counts = {"pairs": len(self.rows), **dict(sorted(statuses.items())), **dict(sorted(reads.items()))}
        known = [(row["correct"], row["status"] == "correct") for row in self.rows if row.get("correct") is not None]
        if known:
            counts["false positives"] = sum(not right and said for right, said in known)
            counts["false negatives"] = sum(right and not said for right, said in known)
        return {name: float(count) for name, count in counts.items()}


def verify_file(path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> VerifyReport:
    """Judge every line of a JSON-lines file. Raises DataError that names the line which cannot be judged."""
    rows = [_row(path, number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    if not rows:
        raise DataError(f"{path}: no pairs; write one JSON object with gold and response per line")
    read = [read_reply(row["response"], row["gold"], row.get("choices") or ()) for row in rows]
    items = [
        Item(one.answer, row["gold"], row.get("kind"), row.get("choices")) for row, one in zip(rows, read, strict=True)
    ]
    verdicts = verify_many(items, timeout_seconds)
    return VerifyReport(
        [
            {
                **row,
                "status": verdict.status,
                "extracted": verdict.extracted,
                "read": one.read,
                "method": verdict.method,
            }
            for row, one, verdict in zip(rows, read, verdicts, strict=True)
        ]
    )


def as_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as a text file ({error}); give a file of JSON lines") from error


def _row(path: Path, number: int, line: str) -> Row:
    where = f"{path}: line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: no JSON ({error}); write one object per line") from error
    for key in ("gold", "response"):
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise DataError(f"{where}: {key} is no text; write an object with the texts gold and response")
    choices = row.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(one, str) for one in choices)):
        raise DataError(f"{where}: choices is no list of texts")
    if row.get("kind") not in (None, *KINDS):
        raise DataError(f"{where}: kind is '{row['kind']}'; known are {', '.join(KINDS)}")
    return row

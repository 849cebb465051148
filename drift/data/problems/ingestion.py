"""Problems in: rows of a source, normalised and checked; what cannot be used is rejected and counted.

A problem has one or more images, a question without placeholder and a gold answer of a known kind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift.config.data import IngestConfig
from drift.data import tables
from drift.data.problems.sources import Source, open_source
from drift.data.tables import Row
from drift.ground.artifacts import staged, write_provenance
from drift.ground.errors import DataError
from drift.inference.images import image_bytes, image_size, stored
from drift.verdicts.extract import SPECIAL_TOKEN, boxes
from drift.verdicts.verdict import MAX_ANSWER_CHARACTERS, answer_kind

logger = logging.getLogger(__name__)

PLACEHOLDER = "<image>"
SENTINELS = frozenset({"proof", "notfound", "not found", "none", "null", "nan", "n/a", "unanswerable"})
"""Gold answers of data sets that stand for 'there is none'."""


@dataclass(frozen=True)
class IngestReport:
    """Rows read and kept, rejected rows by reason, and the time it took."""

    read: int
    kept: int
    rejected: dict[str, int]
    kinds: dict[str, int]
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Numbers for the tracker."""
        counts = {"data/rows": self.read, "data/problems": self.kept, "data/rejected": self.read - self.kept}
        counts |= {f"data/rejected/{reason}": count for reason, count in self.rejected.items()}
        counts |= {f"data/problems/{kind}": count for kind, count in self.kinds.items()}
        return {name: float(count) for name, count in counts.items()} | {"data/ingest_seconds": self.seconds}


@dataclass
class Reading:
    """What happened while problems were read: rows, rejects, and the rows by which each id was taken."""

    read: int = 0
    rejects: list[Row] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)

    def reasons(self) -> dict[str, int]:
        """Rejected rows by reason, in alphabetical order."""
        return dict(sorted(Counter(reject["reason"] for reject in self.rejects).items()))


class Rejected(Exception):  # noqa: N818
    """A row that cannot be used. ``args`` are the reason, counted, and a detail."""


def ingest(config: IngestConfig, out: Path) -> IngestReport:
    """Write the problems of ``config.source`` and the rejected rows into the new folder ``out``.

    Raises DataError: source missing or broken, a column missing, too many rows rejected, or no problem left.
    """
    started = time.monotonic()
    reading, kinds = Reading(), Counter[str]()

    def counted() -> Iterator[Row]:
        for problem in read_problems(config, reading):
            kinds[problem["answer_kind"]] += 1
            yield problem

    with staged(out) as folder:
        tables.write_rows(folder / tables.PROBLEMS_FILE, counted(), tables.PROBLEMS)
        tables.write_rows(folder / tables.REJECTS_FILE, reading.rejects, tables.PROBLEM_REJECTS)
        write_provenance(
            folder, "ingest", config=config.model_dump(mode="json"), inputs={"source": config.source}, read=reading.read
        )
    seconds = round(time.monotonic() - started, 3)
    report = IngestReport(reading.read, len(reading.taken), reading.reasons(), dict(sorted(kinds.items())), seconds)
    logger.info("%s: %d rows, %d problems, rejected: %s", config.source, report.read, report.kept, report.rejected)
    return report


def read_problems(config: IngestConfig, reading: Reading, key: str = "ingest.source") -> Iterator[Row]:
    """Usable problems of ``config.source`` in its order; the rest is noted in ``reading``. Errors name ``key``.

    Raises DataError at the end if nothing is left or more than ``max_rejected`` of the rows were rejected.
    """
    source = open_source(config, key)
    total = min(filter(None, [source.count, config.limit]), default=None)
    rows = tqdm(islice(source.rows, config.limit), desc="ingest", unit="row", total=total)
    for number, raw in enumerate(rows):
        reading.read += 1
        try:
            problem = _problem(raw, config, source)
            _require_new(problem["id"], number, reading)
        except Rejected as rejected:
            reason, detail = rejected.args
            reading.rejects.append({"row": number, "reason": reason, "detail": detail})
        else:
            yield problem
    _require_enough(config, reading, key)


def _require_enough(config: IngestConfig, reading: Reading, key: str) -> None:
    rejected = len(reading.rejects)
    counts = ", ".join(f"{reason} {count}" for reason, count in reading.reasons().items())
    if not reading.read:
        raise DataError(f"{key}: '{config.source}' is empty; it needs one problem a row")
    if not reading.taken:
        raise DataError(f"{key}: '{config.source}': none of {reading.read} rows can be used ({counts})")
    if rejected > config.max_rejected * reading.read:
        raise DataError(
            f"ingest.max_rejected: {rejected} of {reading.read} rows of '{config.source}' rejected ({counts}), more "
            f"than the share {config.max_rejected:g}; repair the rows or raise ingest.max_rejected"
        )


def _problem(raw: dict[str, Any], config: IngestConfig, source: Source) -> Row:
    question = _question(raw.get(config.problem_column))
    gold = _gold(raw.get(config.answer_column))
    choices = _choices(raw.get(config.choices_column)) if config.choices_column else None
    for text in [question, gold, *(choices or [])]:
        if match := SPECIAL_TOKEN.search(text):
            raise Rejected("special_token", f"'{match[0]}' in the text would be read as a control token")
    images = image_bytes(raw.get(config.image_column), source.folder)
    if images is None:
        raise Rejected("missing_image", f"no image in column '{config.image_column}', or its file is missing")
    sizes = [_size(image, config) for image in images]
    return {
        "id": problem_id(images, question),
        "source": str(raw.get("source") or Path(config.source).stem),
        "problem": question,
        "gold": gold,
        "choices": choices,
        "answer_kind": answer_kind(gold, choices),
        "images": stored(images),
        "image_sha256": [hashlib.sha256(image).hexdigest() for image in images],
        "width": sizes[0][0],
        "height": sizes[0][1],
    }


def problem_id(images: list[bytes], question: str) -> str:
    """16 hex digits of SHA-256 over the images' bytes and the question, whatever its whitespace and Unicode form."""
    digest = hashlib.sha256(b"".join(images))
    digest.update(" ".join(unicodedata.normalize("NFKC", question).split()).encode())
    return digest.hexdigest()[:16]


def _require_new(id: str, number: int, reading: Reading) -> None:
    first = reading.taken.setdefault(id, number)
    if first != number:
        raise Rejected("duplicate", f"same image and question as row {first}")


def _question(cell: Any) -> str:
    question = re.sub(rf"[ \t]*{PLACEHOLDER}[ \t]*\n?", " ", cell).strip() if isinstance(cell, str) else ""
    if not question:
        raise Rejected("empty_problem", "no question in the row")
    return question


def _gold(cell: Any) -> str:
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        raise Rejected("missing_answer", "no gold answer in the row")
    gold = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
    if found := boxes(gold):
        gold = found[-1][2]
    if not gold:
        raise Rejected("empty_answer", "the gold answer is empty")
    if isinstance(cell, list | dict) or gold.lower().strip(" .[]'\"") in SENTINELS:
        raise Rejected("sentinel_answer", f"'{gold:.80}' is no answer that can be compared")
    if len(gold) > MAX_ANSWER_CHARACTERS:
        raise Rejected("long_answer", f"{len(gold)} characters, more than {MAX_ANSWER_CHARACTERS}")
    return gold


def _choices(cell: Any) -> list[str] | None:
    if isinstance(cell, str) and cell.strip():
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise Rejected("bad_choices", f"'{cell:.80}' is no list of options") from error
    if isinstance(cell, dict):
        cell = list(cell.values())
    if not cell:
        return None
    if not isinstance(cell, list):
        raise Rejected("bad_choices", f"{cell!r:.80} is no list of options")
    return [str(choice).strip() for choice in cell]


def _size(content: bytes, config: IngestConfig) -> tuple[int, int]:
    try:
        width, height = image_size(content)
    except ValueError as error:
        raise Rejected("undecodable_image", str(error)[:200]) from error
    if min(width, height) < config.min_side_pixels:
        raise Rejected("too_small", f"{width} x {height} pixels, a side below {config.min_side_pixels}")
    if max(width, height) / min(width, height) >= config.max_aspect_ratio:
        raise Rejected("aspect_ratio", f"{width} x {height} pixels, a ratio of {config.max_aspect_ratio:g} or more")
    return width, height

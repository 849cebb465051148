"""Problems in: rows of a source, normalised and checked; what cannot be used is rejected and counted.

A problem has a question, a gold answer of a known kind, and images: in front, or at the question's `<image>`. Where
rows bring finished chains of thought (`curate.ready`), those of one problem are its samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from drift.config.data import IngestConfig
from drift.data import tables
from drift.data.problems.checks import (
    choices_of,
    gold_of,
    image_of,
    question_of,
    require_option,
    require_text,
    size_of,
)
from drift.data.problems.files import Broken, FileRow
from drift.data.problems.formats import Entry, Rejected, read_entry
from drift.data.problems.sources import Source, mixed, open_source, open_sources
from drift.data.tables import Row
from drift.ground.artifacts import staged, write_provenance
from drift.ground.errors import DataError
from drift.ground.progress import shown
from drift.inference.images import stored
from drift.verdicts.comparison import Comparison
from drift.verdicts.verdict import answer_kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestReport:
    """Rows read, problems kept, their chains, rejected rows by reason, and the time it took.

    ``sources``: rows read of each, where there are several.
    """

    read: int
    kept: int
    chains: int
    rejected: dict[str, int]
    kinds: dict[str, int]
    sources: dict[str, int]
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Numbers for the tracker."""
        counts = {"data/rows": self.read, "data/problems": self.kept, "data/rejected": sum(self.rejected.values())}
        counts |= {"data/ready_chains": self.chains} if self.chains else {}
        counts |= {f"data/rejected/{reason}": count for reason, count in self.rejected.items()}
        counts |= {f"data/problems/{kind}": count for kind, count in self.kinds.items()}
        counts |= {f"data/rows/{_metric(source)}": count for source, count in self.sources.items()}
        return {name: float(count) for name, count in counts.items()} | {"data/ingest_seconds": self.seconds}


@dataclass
class Taken:
    """A problem that is there: its row, its gold, and its chains so far."""

    row: int
    gold: str
    chains: int = 0


@dataclass
class Reading:
    """What happened while problems were read: rows, those of each source, rejects, and what each id stands for."""

    read: int = 0
    sources: Counter[int] = field(default_factory=Counter)
    rejects: list[Row] = field(default_factory=list)
    taken: dict[str, Taken] = field(default_factory=dict)

    def examples(self) -> str:
        """Each reason with its number and its first row."""
        first = {reject["reason"]: reject for reject in reversed(self.rejects)}
        return "; ".join(
            f"{reason} {count}, such as row {first[reason]['row']}: {first[reason]['detail']}"
            for reason, count in self.reasons().items()
        )

    def reasons(self) -> dict[str, int]:
        """Rejected rows by reason, in alphabetical order."""
        return dict(sorted(Counter(reject["reason"] for reject in self.rejects).items()))

    def chains(self) -> int:
        """Finished chains of all problems."""
        return sum(one.chains for one in self.taken.values())


def ingest(config: IngestConfig, out: Path) -> IngestReport:
    """Write the problems of ``config.source``, their chains if they have any, and the rejected rows into ``out``.

    Raises DataError: source missing or broken, a column missing, too many rows rejected, or no problem left.
    """
    started = time.monotonic()
    reading, kinds = Reading(), Counter[str]()
    with staged(out) as folder:
        tables.write_rows(folder / tables.PROBLEMS_FILE, _counted(config, reading, kinds, folder), tables.PROBLEMS)
        tables.write_rows(folder / tables.REJECTS_FILE, reading.rejects, tables.PROBLEM_REJECTS)
        write_provenance(
            folder, "ingest", config=config.model_dump(mode="json"), inputs={"source": config.called}, read=reading.read
        )
    report = IngestReport(
        read=reading.read,
        kept=len(reading.taken),
        chains=reading.chains(),
        rejected=reading.reasons(),
        kinds=dict(sorted(kinds.items())),
        sources={one.source: reading.sources[place] for place, one in enumerate(config.sources)},
        seconds=round(time.monotonic() - started, 3),
    )
    drawn = ", ".join(f"{count} of {source}" for source, count in report.sources.items())
    logger.info(
        "%s: %d rows%s, %d problems, rejected: %s",
        *(config.called, report.read, f" ({drawn})" if drawn else "", report.kept, report.rejected),
    )
    return report


def _counted(config: IngestConfig, reading: Reading, kinds: Counter[str], folder: Path) -> Iterator[Row]:
    """The problems, each once; the chains that come with them go to their own file."""
    usable = _usable(config, reading, open_sources(config))
    if not config.ready:
        for problem, _ in usable:
            kinds[problem["answer_kind"]] += 1
            yield problem
        return
    with (folder / tables.CHAINS_FILE).open("w", encoding="utf-8") as file:
        for problem, chain in usable:
            taken = reading.taken[problem["id"]]
            line = {"id": problem["id"], "sample": taken.chains, "text": chain}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            taken.chains += 1
            if taken.chains == 1:
                kinds[problem["answer_kind"]] += 1
                yield problem


def read_problems(config: IngestConfig, reading: Reading, key: str = "ingest.source") -> Iterator[Row]:
    """Usable problems of ``config.source`` in its order; the rest is noted in ``reading``. Errors name ``key``.

    Raises DataError at the end if nothing is left or more than ``max_rejected`` of the rows were rejected.
    """
    return (problem for problem, _ in _usable(config, reading, [open_source(config, key)], key))


def _usable(
    config: IngestConfig, reading: Reading, groups: Sequence[list[Source]], key: str = ""
) -> Iterator[tuple[Row, str | None]]:
    """Each usable row as a problem, and its chain; of a ready set those of a problem that is there already too."""
    counts = [source.count for group in groups for source in group]
    known = None if None in counts or len(groups) > 1 else sum(filter(None, counts))
    total = min(filter(None, [known, config.limit]), default=None)
    rows = shown(islice(mixed(list(groups), config), config.limit), "ingest", total, unit="row")
    for number, (place, source, raw) in enumerate(rows):
        reading.read += 1
        reading.sources[place] += 1
        try:
            entry = _entry(raw, source)
            problem = _problem(entry, raw, source)
            _require_new(problem, number, reading, samples=config.ready)
        except Rejected as rejected:
            reason, detail = rejected.args
            where = f"{source.config.source}: " if len(groups) > 1 else ""
            reading.rejects.append({"row": number, "reason": reason, "detail": f"{where}{detail}"})
        else:
            yield problem, entry.chain
    _require_enough(config, reading, key or config.each()[0][0])


def _require_enough(config: IngestConfig, reading: Reading, key: str) -> None:
    rejected, called = len(reading.rejects), config.called
    counts = ", ".join(f"{reason} {count}" for reason, count in reading.reasons().items())
    if not reading.read:
        raise DataError(f"{key}: '{called}' is empty; it needs one problem a row")
    if not reading.taken:
        first = reading.rejects[0]["detail"]
        raise DataError(f"{key}: '{called}': none of {reading.read} rows can be used ({counts}); the first: {first}")
    if rejected > config.max_rejected * reading.read:
        raise DataError(
            f"ingest.max_rejected: {rejected} of {reading.read} rows of '{called}' rejected, more than the share "
            f"{config.max_rejected:g} ({reading.examples()}); repair the rows or raise ingest.max_rejected"
        )


def _entry(raw: FileRow, source: Source) -> Entry:
    if isinstance(raw, Broken):
        raise Rejected("broken_row", raw.why)
    entry = read_entry(raw, source.config, source.format)
    if source.config.ready and not (isinstance(entry.chain, str) and entry.chain.strip()):
        raise Rejected("missing_chain", "no turn of the assistant, or no text in ingest.chain_column")
    if not entry.images and not source.config.text_only:
        raise Rejected("missing_image", "no image in the row; ingest.text_only takes problems without")
    return entry


def _problem(entry: Entry, raw: Any, source: Source) -> Row:
    config = source.config
    question, cells = question_of(entry.question, entry.images)
    gold = gold_of(entry.gold, entry.chain, boxed=config.ready)
    choices = choices_of(entry.choices)
    named = str(raw.get("source") or source.label)
    words = _words(raw, config)
    require_text([question, gold, *(choices or []), named, words or ""], entry.chain if config.ready else None)
    if choices:
        require_option(gold, choices)
    images = [image_of(cell, config, source.folder) for cell in cells]
    sizes = [size_of(image, config) for image in images]
    width, height = sizes[0] if sizes else (None, None)
    return {
        "id": problem_id(images, question, choices),
        "source": named,
        "problem": question,
        "text_problem": words,
        "gold": gold,
        "choices": choices,
        "answer_kind": answer_kind(gold, choices),
        "images": stored(images),
        "image_sha256": [hashlib.sha256(image).hexdigest() for image in images],
        "width": width,
        "height": height,
    }


def _words(raw: Any, config: IngestConfig) -> str | None:
    """The problem in words, where a column has it."""
    cell = raw.get(config.text_column) if config.text_column else None
    return None if cell is None else str(cell).strip() or None


def problem_id(images: list[bytes], question: str, choices: Sequence[str] | None = None) -> str:
    """16 hex digits of SHA-256 over images' bytes, question and options, whatever their whitespace and Unicode form."""
    digest = hashlib.sha256(b"".join(images))
    digest.update("\0".join(map(_normal, [question, *(choices or [])])).encode())
    return digest.hexdigest()[:16]


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _require_new(problem: Row, number: int, reading: Reading, *, samples: bool) -> None:
    """``samples``: a problem that is there already gets one more chain."""
    first = reading.taken.setdefault(problem["id"], Taken(number, problem["gold"]))
    if first.row == number:
        return
    if Comparison({}).of(first.gold, problem["gold"], None, problem["choices"] or ())[0] == "incorrect":
        golds = f"gold '{problem['gold']:.80}', but '{first.gold:.80}' in row {first.row}"
        raise Rejected("contradicts", f"{golds}, which has the same images, question and options")
    if not samples:
        raise Rejected("duplicate", f"same images, question and options as row {first.row}")


def _metric(source: str) -> str:
    """A source as part of a metric's name."""
    return re.sub(r"[^\w.-]+", "_", source).strip("_")[-200:]

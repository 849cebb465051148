"""What a page shows of a data folder: a draw of its rows and of its rejects, each with what can be filtered by."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

from drift.data import tables
from drift.data.chains.generations import read_generations
from drift.data.exports.look import draw, first_images, known_rows, rows_at
from drift.data.exports.pictures import thumbnail
from drift.data.tables import Row
from drift.ground.artifacts import PROVENANCE, read_json
from drift.ground.errors import DataError
from drift.inference.parts import part_files
from drift.verdicts.verdict import Item, final_answer, verify_many

PROBLEM = ("id", "source", "problem", "gold", "choices", "answer_kind", "images")
TRAINING = ("id", "kind", "source", "messages", "answer", "pass_rate", "n_tokens", "teacher", "images")
REJECT = ("id", "sample", "row", "stage", "reason", "text", "detail")
MAX_IMAGES = 4
"""Shown of a row."""
MAX_CHARACTERS = 8000
"""Of a text; more are counted."""


@dataclass(frozen=True)
class Entry:
    """One row as a person sees it. ``reason``: why it was left out, or what was found of it; '' where nothing was."""

    name: str
    good: bool
    reason: str = ""
    source: str = ""
    kind: str = ""
    pass_rate: float | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    """Thumbnails, as data URLs; '' for an image that does not decode."""
    question: str = ""
    gold: str = ""
    text: str = ""


@dataclass(frozen=True)
class Section:
    """The rows or the rejects of a folder: how many there are, and those drawn."""

    name: str
    total: int
    entries: list[Entry]


@dataclass(frozen=True)
class Draw:
    """How many rows of each section are drawn, by which seed."""

    limit: int
    seed: int

    def rows(self, path: Path, columns: Sequence[str], by: str = "") -> list[Row]:
        """Some rows of a table; as many of each value of the column ``by``, where there is one."""
        strata = (row[by] for row in known_rows(path, (by,))) if by else (None for _ in range(tables.count_rows(path)))
        return rows_at(path, draw(strata, self.limit, self.seed), columns)


def sections_of(folder: Path, problems: Path | None, drawn: Draw) -> list[Section]:
    """What is to see of a folder of ingest, generate or curate; ``problems``: where its rows' questions are.

    Raises DataError if it is none of these, or a file of it cannot be read.
    """
    problems = problems or _made_of(folder)
    if (folder / tables.TRAIN_FILE).is_file():
        return [*_table(folder / tables.TRAIN_FILE, "training rows", TRAINING, _training_entry, drawn),
                *_rejects(folder, problems, drawn)]  # fmt: skip
    if (folder / tables.PROBLEMS_FILE).is_file():
        return [*_table(folder / tables.PROBLEMS_FILE, "problems", PROBLEM, _problem_entry, drawn),
                *_rejects(folder, None, drawn)]  # fmt: skip
    if part_files(folder):
        return [_generations(folder, problems, drawn)]
    raise DataError(f"{folder}: no data to show; give a folder that `drift ingest`, `generate` or `curate` wrote")


def _made_of(folder: Path) -> Path | None:
    """The problems that a step read, by its provenance, if they still lie there."""
    inputs = read_json(folder / PROVENANCE).get("inputs", []) if (folder / PROVENANCE).is_file() else []
    found = next((Path(one["uri"]) for one in inputs if one["name"] == "problems"), None)
    return found if found and (found / tables.PROBLEMS_FILE).is_file() else None


def _table(
    path: Path, name: str, columns: Sequence[str], entry: Callable[[Row, Path], Entry], drawn: Draw
) -> list[Section]:
    rows = drawn.rows(path, columns)
    return [Section(name, tables.count_rows(path), [entry(row, path.parent) for row in rows])]


def _training_entry(row: Row, folder: Path) -> Entry:
    messages = row["messages"] or []
    return Entry(
        name=str(row["id"] or ""),
        good=True,
        source=row["source"] or "",
        kind=row["kind"] or "",
        pass_rate=row["pass_rate"],
        facts=_facts(row, "kind", "source", "pass_rate", "n_tokens", "teacher"),
        images=_thumbnails(row, folder),
        question=_cut("\n\n".join(str(turn["content"]) for turn in messages[:-1])),
        gold=_cut(row["answer"]),
        text=_cut(messages[-1]["content"] if messages else ""),
    )


def _problem_entry(row: Row, folder: Path) -> Entry:
    options = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(row["choices"] or [])]
    return Entry(
        name=row["id"],
        good=True,
        source=row["source"] or "",
        kind=row["answer_kind"] or "",
        facts=_facts(row, "answer_kind", "source"),
        images=_thumbnails(row, folder),
        question=_cut("\n".join([str(row["problem"]), *options])),
        gold=_cut(row["gold"]),
    )


def _rejects(folder: Path, problems: Path | None, drawn: Draw) -> list[Section]:
    path = folder / tables.REJECTS_FILE
    if not path.is_file():
        return []
    rows = drawn.rows(path, REJECT, by="reason")
    asked = _problems(problems, rows)
    return [Section("rejects", tables.count_rows(path), [_reject_entry(row, asked) for row in rows])]


def _reject_entry(row: Row, asked: dict[str, Entry]) -> Entry:
    name = f"row {row['row']}" if row["row"] is not None else str(row["id"])
    of = asked.get(str(row["id"]), Entry(name, good=False))
    return Entry(
        name=name,
        good=False,
        reason=str(row["reason"] or ""),
        source=of.source,
        kind=of.kind,
        facts=[("reason", str(row["reason"])), *_facts(row, "stage", "sample"), *of.facts],
        images=of.images,
        question=of.question,
        gold=of.gold,
        text=_cut(row["text"] or row["detail"]),
    )


def _generations(folder: Path, problems: Path | None, drawn: Draw) -> Section:
    total = sum(1 for _ in read_generations(folder))
    places = set(draw((None for _ in range(total)), drawn.limit, drawn.seed))
    rows = list(compress(read_generations(folder), (place in places for place in range(total))))
    asked, verdicts = _problems(problems, rows), _verdicts(problems, rows)
    return Section("chains", total, [_chain_entry(row, asked, verdicts) for row in rows])


def _chain_entry(row: Row, asked: dict[str, Entry], verdicts: dict[tuple[str, int], str]) -> Entry:
    found = verdicts.get((row["id"], row["sample"]), "")
    of = asked.get(row["id"], Entry(row["id"], good=True))
    thinking = f"<think>\n{row['reasoning']}\n</think>\n\n" if row.get("reasoning") else ""
    shown = row | (row.get("usage") or {})
    return Entry(
        name=f"{row['id']} / {row['sample']}",
        good=found in ("", "correct"),
        reason=found,
        source=of.source,
        kind=of.kind,
        facts=[*([("verdict", found)] if found else []), *_facts(shown, "finish_reason", "completion_tokens", "model"),
               *of.facts],
        images=of.images,
        question=of.question,
        gold=of.gold,
        text=_cut(f"{thinking}{row.get('text') or ''}"),
    )  # fmt: skip


def _problems(problems: Path | None, rows: Iterable[Row]) -> dict[str, Entry]:
    """The problems of some rows by id, as entries."""
    return {row["id"]: _problem_entry(row, Path(problems or ".")) for row in _asked(problems, rows)}


def _asked(problems: Path | None, rows: Iterable[Row]) -> list[Row]:
    wanted = {row["id"] for row in rows}
    if problems is None:
        return []
    table = problems / tables.PROBLEMS_FILE
    places = [place for place, row in enumerate(tables.read_rows(table, ["id"])) if row["id"] in wanted]
    return rows_at(table, places, PROBLEM)


def _verdicts(problems: Path | None, rows: Sequence[Row]) -> dict[tuple[str, int], str]:
    """Whether each chain's answer is right, where its problem is known."""
    golds = {row["id"]: row for row in _asked(problems, rows)}
    known = [row for row in rows if row["id"] in golds]
    items = [
        Item(final_answer(row["text"] or ""), golds[row["id"]]["gold"], choices=golds[row["id"]]["choices"])
        for row in known
    ]
    found = zip(known, verify_many(items), strict=True)
    return {(row["id"], row["sample"]): verdict.status for row, verdict in found}


def _facts(row: Row, *names: str) -> list[tuple[str, str]]:
    """What is known of a row, by name, to be read."""
    known = [(name, row.get(name)) for name in names]
    return [
        (name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else str(value))
        for name, value in known
        if value is not None and value != ""
    ]


def _thumbnails(row: Row, folder: Path) -> list[str]:
    """The row's first images as data URLs; '' for one that does not decode."""
    return [_thumbnail(image) for image in first_images(row, folder)[:MAX_IMAGES]]


def _thumbnail(image: bytes) -> str:
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(thumbnail(image)).decode()}"
    except DataError:
        return ""


def _cut(text: Any) -> str:
    """A text that any page can hold, and how much of it is left out."""
    whole = str(text or "").encode("utf-8", "replace").decode()
    more = len(whole) - MAX_CHARACTERS
    return whole if more <= 0 else f"{whole[:MAX_CHARACTERS]} … ({more:,} characters more)"

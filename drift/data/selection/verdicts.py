"""Generations with their verdicts: the texts of a few thousand problems at a time become candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drift.data.chains.generations import full_text
from drift.data.filters.candidates import Candidate
from drift.data.filters.judging import Judge
from drift.data.pool import CHARACTERS_AT_ONCE, Asked
from drift.data.tables import Row
from drift.verdicts.expressions import Decide, decide
from drift.verdicts.verdict import Item, Verdict, final_answer, verify_many


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate, the number of its generation, and how its verdict was found."""

    number: int
    candidate: Candidate
    verdict: Verdict


@dataclass(frozen=True)
class Deciding:
    """Who decides expressions, and how many characters of chains wait in memory for one call of it."""

    decide: Decide = decide
    characters_at_once: int = CHARACTERS_AT_ONCE


HERE = Deciding()
"""In processes on this machine."""


def judged(
    chunk: Sequence[Asked], timeout_seconds: float, judge: Judge | None = None, decide: Decide = decide
) -> list[list[Judged]]:
    """The candidates of each problem, in order; where rules cannot decide, by ``judge``."""
    texts = [[full_text(row) for _, row in rows] for _, rows in chunk]
    items = [
        Item(final_answer(text), problem["gold"], choices=problem["choices"])
        for (problem, _), own in zip(chunk, texts, strict=True)
        for text in own
    ]
    verdicts = verify_many(items, timeout_seconds, decide)
    if judge:
        verdicts = judge.review([problem["problem"] for problem, rows in chunk for _ in rows], items, verdicts)
    each = iter(verdicts)
    return [_of_one_problem(*asked, own, [next(each) for _ in own]) for asked, own in zip(chunk, texts, strict=True)]


def _of_one_problem(
    problem: Row, rows: Sequence[tuple[int, Row]], texts: Sequence[str], verdicts: Sequence[Verdict]
) -> list[Judged]:
    solved = sum(verdict.status == "correct" for verdict in verdicts) / len(verdicts)
    return [
        Judged(number, _candidate(problem, row, text, verdict, solved), verdict)
        for (number, row), text, verdict in zip(rows, texts, verdicts, strict=True)
    ]


def _candidate(problem: Row, row: Row, text: str, verdict: Verdict, pass_rate: float) -> Candidate:
    return Candidate(
        id=row["id"],
        sample=row["sample"],
        text=text,
        finish_reason=row.get("finish_reason"),
        tokens=tokens_of(row),
        teacher=row.get("model"),
        status=verdict.status,
        pass_rate=pass_rate,
        source=problem["source"],
        answer_kind=problem["answer_kind"],
        gold=problem["gold"],
        choices=problem["choices"],
        problem=problem["problem"],
    )


def tokens_of(row: Row) -> int | None:
    """Tokens that the teacher wrote, where its server says it."""
    return (row.get("usage") or {}).get("completion_tokens")

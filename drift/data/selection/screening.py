"""The filters of one chain over the whole pool, and one chain of each problem: what is left, as records."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from drift.config.data import CurateConfig
from drift.data.filters.candidates import Chain, Reason
from drift.data.filters.capping import one_per_problem
from drift.data.filters.judging import Judge
from drift.data.filters.lengths import Lengths, lengths
from drift.data.pool import Pool
from drift.data.selection.funnel import Funnel
from drift.data.selection.verdicts import HERE, Deciding, Judged, judged
from drift.data.selection.writing import ROW_COLUMNS, chain_row
from drift.data.tables import Row
from drift.ground.errors import DataError

COLUMNS = ["id", "source", "problem", "gold", "choices", "answer_kind"]


@dataclass
class Screened:
    """The chains left, in the pool's order; undetermined answers; and how often each problem was solved."""

    chains: list[Chain] = field(default_factory=list)
    undetermined: int = 0
    pass_rates: array[float] = field(default_factory=lambda: array("d"))
    """By the problem's place in the pool; NaN where it has no generation."""


def screen(
    config: CurateConfig,
    filters: Sequence[tuple[str, Reason]],
    pool: Pool,
    funnel: Funnel,
    deciding: Deciding = HERE,
) -> Screened:
    """Judge all generations; what a filter leaves out gets its fate. Raises DataError: too many undetermined ones.

    These are counted where they are filtered: an answer that another filter leaves out stops nothing.
    """
    counted, judge = lengths(config), Judge(config.judge) if config.judge else None
    for stage in (*(name for name, _ in filters), *([LENGTH] if counted else []), "trace"):
        funnel.open(stage)
    screened = Screened(pass_rates=array("d", [math.nan]) * len(pool.places))
    unsure: Judged | None = None
    rows = pool.problems(ROW_COLUMNS) if counted else iter(())
    for chunk in pool.chunks(COLUMNS, deciding.characters_at_once):
        for own in judged(chunk, config.verify_timeout_seconds, judge, deciding.decide):
            screened.pass_rates[pool.places[own[0].candidate.id]] = own[0].candidate.pass_rate
            screened.undetermined += sum(one.verdict.status == "undetermined" for one in own)
            left = [one for one in own if not _rejected(one, filters, funnel)]
            unsure = unsure or next((one for one in own if funnel.fate(one.number) == UNDETERMINED), None)
            if counted:
                left = _short_enough(config, counted, left, rows, pool, funnel)
            screened.chains += _traced(config, left, funnel)
    if judge:
        judge.require_decided()
    if unsure:
        _require_determined(config, funnel, unsure)
    return screened


LENGTH = "length"
UNDETERMINED = ("correct", "undetermined")


def _rejected(one: Judged, filters: Sequence[tuple[str, Reason]], funnel: Funnel) -> bool:
    for stage, reason in filters:
        if found := reason(one.candidate):
            funnel.reject(one.number, stage, found)
            return True
    return False


def _short_enough(
    config: CurateConfig, counted: Lengths, own: Sequence[Judged], rows: Iterator[Row], pool: Pool, funnel: Funnel
) -> list[Judged]:
    """What the student can take of a problem's chains; ``rows``: all problems with their images, read on from here."""
    left: list[Judged] = []
    problem = next(row for row in rows if row["id"] == own[0].candidate.id) if own else {}
    for one in own:
        row = chain_row(problem, pool.generation(one.number), one.candidate.pass_rate, config)
        if found := counted.reason(row):
            funnel.reject(one.number, LENGTH, found)
        else:
            left.append(one)
    return left


def _traced(config: CurateConfig, own: Sequence[Judged], funnel: Funnel) -> list[Chain]:
    """One of the chains of a problem, if any is left."""
    kept, others = one_per_problem([one.candidate for one in own], config.trace, config.seed)
    numbers = {one.candidate.sample: one.number for one in own}
    for candidate, reason in others:
        funnel.reject(numbers[candidate.sample], "trace", reason)
    return [Chain(numbers[one.sample], one.id, one.source, one.answer_kind, one.pass_rate) for one in kept]


def _require_determined(config: CurateConfig, funnel: Funnel, first: Judged) -> None:
    stage = next(stage for stage in funnel.stages() if stage["stage"] == UNDETERMINED[0])
    count = stage["reasons"][UNDETERMINED[1]]
    if count > config.max_undetermined * stage["in"]:
        one, verdict = first.candidate, first.verdict
        raise DataError(
            f"curate.max_undetermined: {count} of {stage['in']} answers could not be verified (first: problem "
            f"'{one.id}', gold '{one.gold:.60}', answer '{verdict.extracted:.60}', by {verdict.method}), more than the "
            f"share {config.max_undetermined:g}; raise it, or where the method is 'time limit' "
            "curate.verify_timeout_seconds"
        )

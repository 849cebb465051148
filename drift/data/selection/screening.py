"""The filters of one chain over the whole pool, and one chain of each problem: what is left, as records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from drift.config.data import CurateConfig
from drift.data.selection.candidates import Chain, Reason
from drift.data.selection.filters import one_per_problem
from drift.data.selection.funnel import Funnel
from drift.data.selection.pool import Pool
from drift.data.selection.verdicts import Judged, judged
from drift.ground.errors import DataError

COLUMNS = ["id", "source", "problem", "gold", "choices", "answer_kind"]


@dataclass
class Screened:
    """The chains left, in the pool's order; undetermined answers; and how many problems were solved how often."""

    chains: list[Chain] = field(default_factory=list)
    undetermined: int = 0
    pass_rates: Counter[float] = field(default_factory=Counter)


def screen(config: CurateConfig, filters: Sequence[tuple[str, Reason]], pool: Pool, funnel: Funnel) -> Screened:
    """Judge all generations; what a filter leaves out gets its fate. Raises DataError: too many undetermined ones.

    These are counted where they are filtered: an answer that another filter leaves out stops nothing.
    """
    for stage in (*(name for name, _ in filters), "trace"):
        funnel.open(stage)
    screened = Screened()
    unsure: Judged | None = None
    for chunk in pool.chunks(COLUMNS):
        for own in judged(chunk, config.verify_timeout_seconds):
            screened.pass_rates[own[0].candidate.pass_rate] += 1
            screened.undetermined += sum(one.verdict.status == "undetermined" for one in own)
            left = [one for one in own if not _rejected(one, filters, funnel)]
            unsure = unsure or next((one for one in own if funnel.fate(one.number) == UNDETERMINED), None)
            screened.chains += _traced(config, left, funnel)
    if unsure:
        _require_determined(config, funnel, unsure)
    return screened


UNDETERMINED = ("correct", "undetermined")


def _rejected(one: Judged, filters: Sequence[tuple[str, Reason]], funnel: Funnel) -> bool:
    for stage, reason in filters:
        if found := reason(one.candidate):
            funnel.reject(one.number, stage, found)
            return True
    return False


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

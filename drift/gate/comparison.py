"""Two score folders compared question by question, as numbers and as a table. Statistics: `drift.gate.statistics`."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from drift.evaluate.scores import ROLES, Scores, read_scores
from drift.gate.answers import count_reads, read_answers
from drift.gate.statistics import POWER, Comparison, Difference, compare_pairs
from drift.ground.artifacts import SCHEMA, staged, write_json, write_provenance
from drift.ground.errors import DataError

HEADS = ("column", "difference", "interval", "units", "gained", "lost", "p", "detectable")


def compare(
    candidate: Path, baseline: Path, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """The paired difference of two score folders.

    Raises DataError, naming both, if they were not measured by the same protocol on the same questions.
    """
    ours, theirs = read_scores(candidate), read_scores(baseline)
    check_same(candidate, baseline, ours, theirs)
    answers = read_answers(candidate, baseline, ours.benchmarks)
    paired = partial(
        compare_pairs,
        candidate=ours.label,
        baseline=theirs.label,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    common = {name: pair for name, one in answers.items() if (pair := one.common_pair()) is not None}
    return dataclasses.replace(
        paired({name: one.pair() for name, one in answers.items()}),
        reads=count_reads(answers),
        common=paired(common) if any(one.read_differently for one in answers.values()) else None,
    )


def write_comparison(comparison: Comparison, *, candidate: Path, baseline: Path, out: Path) -> None:
    """Write `comparison.json` and `comparison.md` into ``out``."""
    with staged(out) as folder:
        write_json(folder / "comparison.json", {"schema": SCHEMA, **comparison.to_json()})
        (folder / "comparison.md").write_text(markdown(comparison), encoding="utf-8")
        inputs = {"candidate": candidate, "baseline": baseline}
        write_provenance(folder, "compare", config={"confidence": comparison.confidence}, inputs=inputs)


def markdown(comparison: Comparison) -> str:
    """The comparison as a heading and a table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADS, ["---", *["---:"] * (len(HEADS) - 1)], *rows(comparison))]
    title = f"# {comparison.candidate} against {comparison.baseline}"
    return "\n".join([title, "", caption(comparison), "", *lines]) + "\n"


def caption(comparison: Comparison) -> str:
    """What the columns of the table mean."""
    return (
        f"Differences are paired, in points of percent, with their {comparison.confidence:.0%} interval; gained and "
        f"lost: questions that only one of the two got right; p: exact McNemar, two-sided; detectable: the least true "
        f"difference that a one-sided test at {comparison.confidence:.0%} finds with probability {POWER:.0%}."
    )


def rows(comparison: Comparison) -> list[list[str]]:
    """A row of `HEADS` per column, then one per role."""
    named = dict(comparison.columns)
    named |= {f"{role} mean": mean for role in ROLES if (mean := comparison.role(role)) is not None}
    return [[name, *_cells(difference)] for name, difference in named.items()]


def sentences(comparison: Comparison) -> list[str]:
    """What came of it, of each role."""
    means = {role: mean for role in ROLES if (mean := comparison.role(role)) is not None}
    return [
        f"{role}: {comparison.candidate} is {mean.points:+.1f} points ({mean.low:+.1f} to {mean.high:+.1f}) from "
        f"{comparison.baseline}, p = {mean.p_value:.2g}"
        for role, mean in means.items()
    ]


def _cells(difference: Difference) -> list[str]:
    return [
        f"{difference.points:+.1f}",
        f"{difference.low:+.1f} to {difference.high:+.1f}",
        f"{difference.n}",
        f"{difference.gained}",
        f"{difference.lost}",
        f"{difference.p_value:.2g}",
        f"{difference.detectable:.1f}",
    ]


def check_same(candidate: Path, baseline: Path, ours: Scores, theirs: Scores) -> None:
    """Raise DataError, naming both, if they were not measured by the same protocol on the same questions."""
    for what, left, right in (
        ("protocols", ours.protocol_fingerprint, theirs.protocol_fingerprint),
        ("data", ours.data_fingerprint, theirs.data_fingerprint),
    ):
        if left != right:
            raise DataError(
                f"{candidate} and {baseline}: measured with different {what} ({left[:12]}, {right[:12]}); "
                "evaluate both with the same settings"
            )

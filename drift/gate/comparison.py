"""Two score folders compared question by question, as numbers and as a table. Statistics: `drift.gate.statistics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from drift.evaluate.columns import columns
from drift.evaluate.samples import Sample, read_samples
from drift.evaluate.scores import ROLES, BenchmarkScore, Scores, read_scores
from drift.gate.statistics import POWER, Comparison, Difference, Pair, compare_pairs
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
    _check_same(candidate, baseline, ours, theirs)
    return compare_pairs(
        _read_pairs(candidate, baseline, ours.benchmarks),
        candidate=ours.label,
        baseline=theirs.label,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
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


def _read_pairs(candidate: Path, baseline: Path, benchmarks: Mapping[str, BenchmarkScore]) -> dict[str, Pair]:
    ours, theirs = (_by_key(read_samples(folder)) for folder in (candidate, baseline))
    if missing := sorted(ours.keys() ^ theirs.keys()):
        benchmark, index = missing[0]
        raise DataError(f"{candidate} and {baseline}: {benchmark} index {index} is in only one; evaluate both again")
    pairs = {}
    for name in dict.fromkeys(benchmark for benchmark, _ in ours):
        keys = [key for key in ours if key[0] == name]
        pairs[name] = _pair(name, benchmarks[name], [ours[key] for key in keys], [theirs[key] for key in keys])
    return pairs


def _by_key(samples: Sequence[Sample]) -> Mapping[tuple[str, str], Sample]:
    return {(sample.benchmark, sample.index): sample for sample in samples}


def _pair(name: str, score: BenchmarkScore, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Pair:
    """Both models' answers to the same questions in the same order."""
    units, their_units = (columns(name, score.format, samples) for samples in (ours, theirs))
    clusters = [unit.cluster for unit in next(iter(units.values()))]
    right = [(mine.correct, other.correct) for mine, other in zip(ours, theirs, strict=True)]
    return Pair(
        role=score.role,
        differences={
            column: np.array([unit.value for unit in mine]) - np.array([unit.value for unit in their_units[column]])
            for column, mine in units.items()
        },
        clusters=np.unique(clusters, return_inverse=True)[1],
        gained=right.count((True, False)),
        lost=right.count((False, True)),
    )


def _check_same(candidate: Path, baseline: Path, ours: Scores, theirs: Scores) -> None:
    for what, left, right in (
        ("protocols", ours.protocol_fingerprint, theirs.protocol_fingerprint),
        ("data", ours.data_fingerprint, theirs.data_fingerprint),
    ):
        if left != right:
            raise DataError(
                f"{candidate} and {baseline}: measured with different {what} ({left[:12]}, {right[:12]}); "
                "evaluate both with the same settings"
            )

"""How much better one model is than another on the same questions, and how sure that is.

d    difference of correctness of one question, candidate minus baseline: −1, 0 or 1
Δ    mean of d over a benchmark's questions, in points of percent; for a role the mean over its benchmarks
[low, high]   percentile interval of a bootstrap over groups of questions, drawn anew within each benchmark
p_value       exact McNemar test on the questions that only one of the two got right

Pairing is what makes small differences visible: both models saw the same questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drift.errors import DataError
from drift.evaluate.samples import Sample, read_samples
from drift.evaluate.scores import ROLES, Role, Scores, read_scores

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline in points of percent, with its interval, over ``n`` questions."""

    points: float
    low: float
    high: float
    n: int
    gained: int
    """Questions that only the candidate got right."""
    lost: int
    """Questions that only the baseline got right."""
    p_value: float
    """Two-sided: how likely so uneven a split of gained and lost is, if both models were equally good."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same data: per benchmark, and the mean of each role (None without benchmarks of it)."""

    candidate: str
    baseline: str
    benchmarks: dict[str, Difference]
    reasoning: Difference | None
    perception: Difference | None

    def role(self, role: Role) -> Difference | None:
        return self.reasoning if role == "reasoning" else self.perception

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare(
    candidate: Path, baseline: Path, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """The paired difference of two score folders.

    Raises DataError, naming both, if they were not measured by the same protocol on the same questions.
    """
    scores = read_scores(candidate), read_scores(baseline)
    _check_same(candidate, baseline, *scores)
    pairs = _paired(candidate, baseline)
    draws = {name: _bootstrap(pair, resamples, _rng(seed, name)) for name, pair in pairs.items()}
    means: dict[Role, Difference | None] = {}
    for role in ROLES:
        names = [name for name, score in scores[0].benchmarks.items() if score.role == role]
        mine = [pairs[name] for name in names], [draws[name] for name in names]
        means[role] = _difference(*mine, confidence) if names else None
    return Comparison(
        candidate=scores[0].label,
        baseline=scores[1].label,
        benchmarks={name: _difference([pairs[name]], [draws[name]], confidence) for name in pairs},
        reasoning=means["reasoning"],
        perception=means["perception"],
    )


@dataclass(frozen=True)
class _Pair:
    """One benchmark: correctness of both models per question, and the group of each question."""

    candidate: Array
    baseline: Array
    groups: Sequence[str]

    @property
    def difference(self) -> Array:
        return self.candidate - self.baseline


def _difference(pairs: Sequence[_Pair], draws: Sequence[Array], confidence: float) -> Difference:
    """Mean over the pairs; the counts and the test pool their questions."""
    d = np.concatenate([pair.difference for pair in pairs])
    gained, lost = int((d > 0).sum()), int((d < 0).sum())
    low, high = np.quantile(np.mean(draws, axis=0), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(
        points=100 * float(np.mean([pair.difference.mean() for pair in pairs])),
        low=100 * float(low),
        high=100 * float(high),
        n=len(d),
        gained=gained,
        lost=lost,
        p_value=mcnemar_p_value(gained, lost),
    )


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Exact two-sided McNemar: 2 P(X ≤ min(gained, lost)) with X ~ Binomial(gained + lost, 1/2), at most 1."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue) if gained + lost else 1.0


def _bootstrap(pair: _Pair, resamples: int, rng: np.random.Generator) -> Array:
    """Mean of d in each of ``resamples`` draws of whole groups with replacement. Shape [resamples]."""
    _, group = np.unique(np.asarray(pair.groups), return_inverse=True)
    sums, sizes = np.bincount(group, weights=pair.difference), np.bincount(group)
    means: list[Array] = []
    for count in _chunks(resamples, 2**22 // len(sizes) + 1):
        drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=count)
        means.append((drawn @ sums) / (drawn @ sizes))
    return np.concatenate(means)


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _rng(seed: int, name: str) -> np.random.Generator:
    """Its own stream per benchmark, so that one more benchmark changes no other's interval."""
    return np.random.default_rng([seed, *name.encode()])


def _paired(candidate: Path, baseline: Path) -> dict[str, _Pair]:
    ours, theirs = (_by_key(read_samples(folder)) for folder in (candidate, baseline))
    if missing := sorted(ours.keys() ^ theirs.keys()):
        benchmark, index = missing[0]
        raise DataError(f"{candidate} and {baseline}: {benchmark} index {index} is in only one; evaluate both again")
    pairs = {}
    for name in dict.fromkeys(benchmark for benchmark, _ in ours):
        keys = [key for key in ours if key[0] == name]
        right, baseline_right = (np.array([float(side[key].correct) for key in keys]) for side in (ours, theirs))
        pairs[name] = _Pair(right, baseline_right, [ours[key].group for key in keys])
    return pairs


def _by_key(samples: Sequence[Sample]) -> Mapping[tuple[str, str], Sample]:
    return {(sample.benchmark, sample.index): sample for sample in samples}


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

"""How much better one model is than another on the same questions, and how sure that is.

d    difference of one unit's value in a headline column, candidate minus baseline, in [−1, 1]
Δ    mean of d over a column's units, in points of percent; for a role the mean over its columns
SE   standard deviation of Δ over a bootstrap: whole clusters of dependent questions are drawn anew within each
     benchmark, and all columns of a benchmark see the same draw (WeMath's strict and loose are dependent)
[low, high]   two-sided percentile interval; `lower` and `upper` are the one-sided bounds at the same confidence
detectable    (z_{1−α} + z_{power})·SE with α = 1 − confidence, one-sided: a true difference of this size is found
              with probability `POWER`
p_value       exact two-sided McNemar test on the questions that only one of the two got right

Pairing is what makes small differences visible: both models saw the same questions. McNemar's test takes questions as
independent of each other; the intervals do not. Arrays only; `drift.gate.comparison` reads them from score folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drift.config.catalog import ROLES, Role

Array = np.ndarray[Any, np.dtype[np.float64]]
Codes = np.ndarray[Any, np.dtype[np.int64]]

POWER = 0.8


@dataclass(frozen=True)
class Pair:
    """Two models on one benchmark."""

    role: Role
    differences: dict[str, Array]
    """d of each unit, by column; the columns of a benchmark share their units."""
    clusters: Codes
    """Of each unit: the number of its cluster, from 0."""
    gained: int
    """Questions that only the candidate got right."""
    lost: int
    """Questions that only the baseline got right."""

    @property
    def cluster_sums(self) -> Array:
        """Sum of d over each cluster, column by column, and last its units. Shape [clusters, columns + 1]."""
        sums = [np.bincount(self.clusters, weights=d) for d in self.differences.values()]
        return np.column_stack([*sums, np.bincount(self.clusters)])


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline in points of percent, over ``n`` units. Symbols: see the module."""

    points: float
    low: float
    high: float
    lower: float
    upper: float
    error: float
    """SE."""
    detectable: float
    n: int
    gained: int
    lost: int
    p_value: float
    """Two-sided: how likely so uneven a split of gained and lost is, if both models were equally good."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same data: per column, and the mean of each role (None without columns of it)."""

    candidate: str
    baseline: str
    confidence: float
    roles: dict[str, Role]
    """Of each column."""
    columns: dict[str, Difference]
    worse: dict[str, float]
    """One-sided p of each column: see `worse_p_value`."""
    reasoning: Difference | None
    perception: Difference | None
    draws: dict[str, Array] = field(repr=False, compare=False)
    """Bootstrapped Δ of each column, draw by draw."""

    def role(self, role: Role) -> Difference | None:
        return self.reasoning if role == "reasoning" else self.perception

    def columns_of(self, role: Role) -> list[str]:
        return [name for name in self.columns if self.roles[name] == role]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(dataclasses.replace(self, draws={}))


def compare_pairs(
    pairs: Mapping[str, Pair],
    *,
    candidate: str = "candidate",
    baseline: str = "baseline",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The paired difference of two models from their pairs by benchmark. The same seed gives the same intervals."""
    draws: dict[str, Array] = {}
    worse: dict[str, float] = {}
    for name, pair in pairs.items():
        rng = _rng(seed, name)
        draws |= _bootstrap(pair, resamples, rng)
        worse |= {column: worse_p_value(pair, column, resamples, rng) for column in pair.differences}
    means = {role: _mean_of(role, pairs, draws, confidence) for role in ROLES}
    return Comparison(
        candidate=candidate,
        baseline=baseline,
        confidence=confidence,
        roles={column: pair.role for pair in pairs.values() for column in pair.differences},
        columns={
            column: _difference([pair], {column: draws[column]}, confidence)
            for pair in pairs.values()
            for column in pair.differences
        },
        worse=worse,
        reasoning=means["reasoning"],
        perception=means["perception"],
        draws=draws,
    )


def _mean_of(role: Role, pairs: Mapping[str, Pair], draws: Mapping[str, Array], confidence: float) -> Difference | None:
    mine = [pair for pair in pairs.values() if pair.role == role]
    columns = {column: draws[column] for pair in mine for column in pair.differences}
    return _difference(mine, columns, confidence) if mine else None


def _difference(pairs: Sequence[Pair], draws: Mapping[str, Array], confidence: float) -> Difference:
    """Mean over the columns in ``draws``; units, counts and McNemar's test pool the benchmarks they belong to."""
    differences = {column: d for pair in pairs for column, d in pair.differences.items()}
    drawn = np.mean(list(draws.values()), axis=0)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2, 1 - confidence, confidence]
    low, high, lower, upper = map(float, np.quantile(drawn, tails))
    gained, lost = sum(pair.gained for pair in pairs), sum(pair.lost for pair in pairs)
    return Difference(
        points=100 * float(np.mean([differences[column].mean() for column in draws])),
        low=low,
        high=high,
        lower=lower,
        upper=upper,
        error=(error := float(drawn.std(ddof=1))),
        detectable=detectable_effect(error, confidence),
        n=sum(len(pair.clusters) for pair in pairs),
        gained=gained,
        lost=lost,
        p_value=mcnemar_p_value(gained, lost),
    )


def detectable_effect(error: float, confidence: float) -> float:
    """(z_{1−α} + z_{power})·SE, α = 1 − confidence: what a one-sided test finds with probability `POWER`."""
    from scipy.special import ndtri

    return float(ndtri(confidence) + ndtri(POWER)) * error


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Exact two-sided McNemar: 2 P(X ≤ min(gained, lost)) with X ~ Binomial(gained + lost, 1/2), at most 1."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue) if gained + lost else 1.0


def worse_p_value(pair: Pair, column: str, resamples: int, rng: np.random.Generator) -> float:
    """One-sided: how likely a sum of d as low as this is, if every cluster's sum had either sign alike.

    The sign-flip permutation test over clusters by Monte Carlo, (1 + #)/(1 + resamples); with one question per cluster
    it is the one-sided McNemar test. scipy's `permutation_test` flips sign by sign; here clusters with equal |sum| are
    flipped together, which is the same and a hundred times faster.
    """
    sums = pair.cluster_sums[:, list(pair.differences).index(column)]
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    flipped = (2 * rng.binomial(counts, 0.5, size=(resamples, len(counts))) - counts) @ sizes
    return float((1 + (flipped <= sums.sum() + 1e-9).sum()) / (1 + resamples))


def _bootstrap(pair: Pair, resamples: int, rng: np.random.Generator) -> dict[str, Array]:
    """Δ of each column in each of ``resamples`` draws of whole clusters with replacement.

    Clusters with equal sums are drawn as one kind: the same distribution, at the cost of the kinds. Kinds stand in
    the order in which they first occur, so that swapping the models turns the sign of every draw.
    """
    sums = pair.cluster_sums
    _, first, counts = np.unique(sums, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    shares = counts[order] / len(sums)
    totals = rng.multinomial(len(sums), shares, size=resamples) @ sums[first[order]]
    return dict(zip(pair.differences, 100 * (totals[:, :-1] / totals[:, -1:]).T, strict=True))


def _rng(seed: int, name: str) -> np.random.Generator:
    """Its own stream per benchmark, so that one more benchmark changes no other's interval."""
    return np.random.default_rng([seed, *name.encode()])

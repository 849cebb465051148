"""How much better one model is than another on the same questions, and how sure that is.

d    difference of one unit's value in a headline column, candidate minus baseline, in [−1, 1]; with several samples of
     a question the difference of the means over them
Δ    mean of d over a column's units, in points of percent; for a role the mean over its columns
u    what a cluster of dependent questions contributes to Δ − E[Δ] (Liang and Zeger 1986); V = Σu² is Δ's variance, and
     columns of a benchmark share their clusters (WeMath's strict and loose are dependent)
q    square of what one cluster can move Δ by: the mean over the clusters that differ and one that differs whole
h(α) √(z²V + (ln α)² q) with z = z_{1−α}: the half-width. Where nothing differed in n clusters it is (−ln α)/n, just
     outside the exact bound 1 − α^{1/n} (the rule of three): what was not seen is not taken for impossible
lower, upper  Δ ∓ h(α), one-sided, moved outwards by Johnson's (1978) correction (1 + 2z²)/6 · Σu³/V for skewness, which
     losses without gains have; [low, high] is the two-sided interval at the same confidence
SE   h(α)/z: √V, and more where little was seen
detectable    (z_{1−α} + z_{power})·SE with α = 1 − confidence, one-sided: a true difference of this size is found
              with probability `POWER`
p_value       exact two-sided McNemar test on the questions that only one of the two got right (more often)

Pairing is what makes small differences visible: both models saw the same questions. McNemar's test takes questions as
independent of each other; the bounds do not. Arrays only; `drift.gate.comparison` reads them from score folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drift.config.catalog import ROLES, Role

Array = np.ndarray[Any, np.dtype[np.float64]]
Codes = np.ndarray[Any, np.dtype[np.int64]]

POWER = 0.8
SMALLEST_P, LARGEST_P = 1e-12, 1 - 1e-9
"""Of `clustered_p`: below, the normal law says nothing that could be checked."""


@dataclass(frozen=True)
class Pair:
    """Two models on one benchmark."""

    role: Role
    differences: dict[str, Array]
    """d of each unit, by column; the columns of a benchmark share their units."""
    clusters: Codes
    """Of each unit: the number of its cluster, from 0."""
    gained: int
    """Questions that the candidate got right, or right more often, and the baseline not."""
    lost: int
    """The other way round."""
    samples: int = 1
    """Replies to each question."""
    noise: dict[str, Array] = field(default_factory=dict)
    """Variance of each unit's d over its samples, by column; empty for one sample."""

    def cluster_sums(self, columns: Sequence[str]) -> Array:
        """Sum over each cluster of d over the columns. Shape [clusters]."""
        summed = np.sum([self.differences[name] for name in columns], axis=0)
        return np.asarray(np.bincount(self.clusters, weights=summed), dtype=np.float64)


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
    spread: Spread
    clusters: int
    """Independent groups of questions."""
    samples: int = 1

    def lower_at(self, confidence: float) -> float:
        """The one-sided lower bound at another confidence."""
        return max(-100.0, self.points - self.spread.reach(confidence, -1))

    @property
    def clustered_p(self) -> float:
        """Two-sided: the least α whose interval [low, high] leaves out 0, so that it says what the interval says."""
        side = -1 if self.points > 0 else 1

        def beyond(alpha: float) -> float:
            return abs(self.points) - self.spread.reach(1 - alpha / 2, side)

        if self.points == 0 or beyond(LARGEST_P) < 0:
            return 1.0
        return _root(beyond, SMALLEST_P, LARGEST_P) if beyond(SMALLEST_P) < 0 else SMALLEST_P


@dataclass(frozen=True)
class Spread:
    """What bounds are made from, in points: V, Σu³, q, and the part of V that more samples of a question lessen."""

    variance: float
    third: float
    unseen: float
    noise: float | None = None
    """None where each question was asked once, so that nobody knows."""

    def half_width(self, confidence: float) -> float:
        """h(α), α = 1 − confidence."""
        return float(np.sqrt(_z(confidence) ** 2 * self.variance + np.log1p(-confidence) ** 2 * self.unseen))

    def reach(self, confidence: float, side: int) -> float:
        """How far the bound lies below Δ (side −1) or above it (side 1)."""
        skew = (1 + 2 * _z(confidence) ** 2) / 6 * self.third / self.variance if self.variance > 0 else 0.0
        return self.half_width(confidence) + max(0.0, side * skew)

    def error(self, confidence: float) -> float:
        """SE."""
        return self.half_width(confidence) / z if (z := _z(confidence)) > 0 else float(np.sqrt(self.variance))


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
    covariance: Array = field(repr=False, compare=False)
    """Of the columns' Δ, in their order. Shape [columns, columns]."""
    reads: dict[str, dict[Role, dict[str, int]]] = field(default_factory=dict)
    """Of `candidate` and `baseline`: how many replies of a role were read in which way (`drift.gate.readable`)."""
    common: Comparison | None = None
    """Over the questions that both answered readably; None where both answered the same ones readably."""

    def role(self, role: Role) -> Difference | None:
        return self.reasoning if role == "reasoning" else self.perception

    def columns_of(self, role: Role) -> list[str]:
        return [name for name in self.columns if self.roles[name] == role]

    def to_json(self) -> dict[str, Any]:
        common = self.common.to_json() if self.common else None
        content = dataclasses.asdict(dataclasses.replace(self, covariance=np.empty(0), common=None))
        del content["covariance"]
        return content | {"common": common}


def compare_pairs(
    pairs: Mapping[str, Pair],
    *,
    candidate: str = "candidate",
    baseline: str = "baseline",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The paired difference of two models from their pairs by benchmark. ``resamples``, ``seed``: `worse_p_value`."""
    placed = {column: (name, pair) for name, pair in pairs.items() for column in pair.differences}
    means = {role: [pair for pair in pairs.values() if pair.role == role] for role in ROLES}
    return Comparison(
        candidate=candidate,
        baseline=baseline,
        confidence=confidence,
        roles={column: pair.role for column, (_, pair) in placed.items()},
        columns={column: _difference([(pair, [column])], confidence) for column, (_, pair) in placed.items()},
        worse={
            column: worse_p_value(pair, column, resamples, _rng(seed, column)) for column, (_, pair) in placed.items()
        },
        reasoning=_mean_of(means["reasoning"], confidence),
        perception=_mean_of(means["perception"], confidence),
        covariance=_covariance(list(pairs.values())),
    )


def _mean_of(pairs: Sequence[Pair], confidence: float) -> Difference | None:
    return _difference([(pair, list(pair.differences)) for pair in pairs], confidence) if pairs else None


def _difference(parts: Sequence[tuple[Pair, list[str]]], confidence: float) -> Difference:
    """Mean over the columns in ``parts``; units, counts and McNemar's test pool the benchmarks they belong to."""
    pairs = [pair for pair, _ in parts]
    spread = _spread(parts)
    points = 100 * float(np.mean([pair.differences[name].mean() for pair, names in parts for name in names]))
    error, two_sided = spread.error(confidence), (1 + confidence) / 2
    gained, lost = sum(pair.gained for pair in pairs), sum(pair.lost for pair in pairs)
    return Difference(
        points=points,
        low=max(-100.0, points - spread.reach(two_sided, -1)),
        high=min(100.0, points + spread.reach(two_sided, 1)),
        lower=max(-100.0, points - spread.reach(confidence, -1)),
        upper=min(100.0, points + spread.reach(confidence, 1)),
        error=error,
        detectable=detectable_effect(error, confidence),
        n=sum(len(pair.clusters) for pair in pairs),
        gained=gained,
        lost=lost,
        p_value=mcnemar_p_value(gained, lost),
        spread=spread,
        clusters=sum(int(pair.clusters.max()) + 1 for pair in pairs),
        samples=min(pair.samples for pair in pairs),
    )


def _spread(parts: Sequence[tuple[Pair, list[str]]]) -> Spread:
    """V, Σu³ and q of the mean over the columns in ``parts``."""
    scale = 100 / sum(len(names) for _, names in parts)
    contributions = np.concatenate([_contributions(pair, names) for pair, names in parts]) * scale
    known = all(pair.noise for pair, _ in parts)
    return Spread(
        variance=float((contributions**2).sum()),
        third=float((contributions**3).sum()),
        unseen=scale**2 * sum(_unseen(pair, names) for pair, names in parts),
        noise=scale**2 * sum(_noise(pair, names) for pair, names in parts) if known else None,
    )


def _contributions(pair: Pair, columns: Sequence[str]) -> Array:
    """u of each cluster for the sum over the columns: (s − m·Δ)/M, with n/(n − 1) as in a sample's variance."""
    sums, sizes = pair.cluster_sums(columns), np.bincount(pair.clusters)
    n, units = len(sums), sizes.sum()
    centred = (sums - sizes * (sums.sum() / units)) / units
    return np.asarray(centred * np.sqrt(n / max(n - 1, 1)), dtype=np.float64)


def _unseen(pair: Pair, columns: Sequence[str]) -> float:
    """q of one benchmark: mean square of the sums of clusters that differ and of one cluster of mean size, whole."""
    sums, units = pair.cluster_sums(columns), len(pair.clusters)
    whole = len(columns) * units / len(sums)
    return float(((sums**2).sum() + whole**2) / (np.count_nonzero(sums) + 1) / units**2)


def _noise(pair: Pair, columns: Sequence[str]) -> float:
    """The samples' share of the variance; columns of a benchmark are taken as moving together."""
    return float(sum(np.sqrt(pair.noise[name].sum()) for name in columns) ** 2) / len(pair.clusters) ** 2


def _covariance(pairs: Sequence[Pair]) -> Array:
    """Of all columns' Δ: blocks by benchmark, since benchmarks share no question."""
    blocks = [np.array([_contributions(pair, [name]) for name in pair.differences]) for pair in pairs]
    size = sum(len(block) for block in blocks)
    matrix, place = np.zeros((size, size)), 0
    for block in blocks:
        end = place + len(block)
        matrix[place:end, place:end] = 100**2 * block @ block.T
        place = end
    return matrix


def detectable_effect(error: float, confidence: float) -> float:
    """(z_{1−α} + z_{power})·SE, α = 1 − confidence: what a one-sided test finds with probability `POWER`."""
    return (_z(confidence) + _z(POWER)) * error


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
    sums = pair.cluster_sums([column]).round(9)  # thirds of several samples add up differently
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    flipped = (2 * rng.binomial(counts, 0.5, size=(resamples, len(counts))) - counts) @ sizes
    return float((1 + (flipped <= sums.sum() + 1e-6).sum()) / (1 + resamples))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high))


def _z(confidence: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(confidence))


def _rng(seed: int, name: str) -> np.random.Generator:
    """Its own stream per column, so that one more benchmark changes no other's p."""
    return np.random.default_rng([seed, *name.encode()])

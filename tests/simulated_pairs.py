"""Two simulated models on benchmarks of the published sizes, as pairs: what the gate decides from, without files.

δ, the discordance, is the share of questions that only one of two models gets right when each is asked once. Half of it
is change: the candidate turns (δ/2 − e)/2 of the right answers wrong and (δ/2 + e)/2 of the wrong ones right, for good;
e is the effect. Half is chance: a share δ of the questions is right with probability ½ at every sample, of either
model. Asked k times, Δ has the variance δ/2·(1 + 1/k) − e² per question. A share `COMMON` of the rows of a cluster
(WeMath's problems, HallusionBench's sets) follow one draw, chance at k = 1 included.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from drift.config.catalog import KNOWN, columns_of
from drift.gate.statistics import Array, Pair

COMMON = 0.05**0.5
"""An intracluster correlation of 0.05, which is mild."""
SET = 5
"""Rows of a set of HallusionBench, about."""
WEMATH = np.repeat([3, 4], [360, 165])
"""Rows of each problem: its steps and the whole."""
ACCURACY = {"reasoning": 0.5, "perception": 0.7}


def simulate(
    rng: np.random.Generator,
    discordance: float,
    effects: Mapping[str, float],
    samples: Mapping[str, int] | None = None,
) -> dict[str, Pair]:
    """A pair per published benchmark. ``effects``: e of its questions, ``samples``: k, both by benchmark; 0 and 1 where
    not named."""
    asked = samples or {}
    return {name: _benchmark(rng, name, discordance, effects.get(name, 0.0), asked.get(name, 1)) for name in KNOWN}


def _benchmark(rng: np.random.Generator, name: str, discordance: float, effect: float, samples: int) -> Pair:
    role, clusters = KNOWN[name].role, clusters_of(name)
    baseline, candidate = _answers(rng, clusters, ACCURACY[role], discordance, effect, samples)
    better = candidate.sum(axis=0) - baseline.sum(axis=0)
    gained, lost = int((better > 0).sum()), int((better < 0).sum())
    if name == "WeMath":
        ours, theirs, clusters = _wemath(candidate), _wemath(baseline), np.arange(len(WEMATH))
    else:
        ours, theirs = ((right.astype(float),) for right in (candidate, baseline))
    columns = columns_of(name, name)
    differences = {name: (a - b).mean(axis=0) for name, a, b in zip(columns, ours, theirs, strict=True)}
    noise = {name: _noise(a) + _noise(b) for name, a, b in zip(columns, ours, theirs, strict=True)}
    return Pair(role, differences, clusters, gained, lost, samples, noise if samples > 1 else {})


def clusters_of(name: str) -> np.ndarray:
    """The cluster of each row."""
    if name == "WeMath":
        return np.repeat(np.arange(len(WEMATH)), WEMATH)
    return np.arange(KNOWN[name].rows) // (SET if name == "HallusionBench" else 1)


def _answers(
    rng: np.random.Generator, clusters: np.ndarray, accuracy: float, discordance: float, effect: float, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the baseline and the candidate are right. Shapes [samples, rows].

    One uniform number places a question: [lost | … right | chance | … wrong | gained].
    """
    common = rng.random(len(clusters)) < COMMON
    drawn = np.where(common, rng.random(clusters[-1] + 1)[clusters], rng.random(len(clusters)))
    changed = discordance / 2
    lost, gained = drawn < (changed - effect) / 2, drawn > 1 - (changed + effect) / 2
    chance = np.abs(drawn - accuracy) < discordance / 2
    steady = np.broadcast_to(drawn < accuracy, (samples, len(drawn)))
    baseline, candidate = (np.where(chance, rng.random(steady.shape) < 0.5, steady) for _ in range(2))
    return baseline, (candidate & ~lost) | gained


def _noise(values: Array) -> Array:
    return np.asarray(values.var(axis=0, ddof=1) / len(values)) if len(values) > 1 else np.zeros(values.shape[1])


def _wemath(right: np.ndarray) -> tuple[Array, Array]:
    """Strict and loose value of each problem; the last row of a problem is the whole (`drift.evaluate.columns`)."""
    ends = np.cumsum(WEMATH)
    steps = np.add.reduceat(right.astype(int), ends - WEMATH, axis=1) - right[:, ends - 1]
    every, final = steps == WEMATH - 1, right[:, ends - 1]
    strict = np.where(every, np.where(final, 1.0, 0.5), 0.0)
    return strict, np.where(final, (steps > 0).astype(float), strict)

"""Two simulated models on benchmarks of the published sizes, as pairs: what the gate decides from, without files.

Each question of the baseline is right with probability ½ (reasoning) or 0.7 (perception); the candidate turns wrong
ones right with probability (δ + e)/2 and right ones wrong with (δ − e)/2 of all questions: δ is the discordance, e the
effect. A share `COMMON` of the rows of a cluster (WeMath's problems, HallusionBench's sets) follow one draw.
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


def simulate(rng: np.random.Generator, discordance: float, effects: Mapping[str, float]) -> dict[str, Pair]:
    """A pair per published benchmark. `effects`: e of its questions, by benchmark; 0 where not named."""
    return {name: _benchmark(rng, name, discordance, effects.get(name, 0.0)) for name in KNOWN}


def _benchmark(rng: np.random.Generator, name: str, discordance: float, effect: float) -> Pair:
    known = KNOWN[name]
    clusters = _clusters(name, known.rows)
    baseline, candidate = _answers(rng, clusters, ACCURACY[known.role], discordance, effect)
    gained, lost = int((candidate & ~baseline).sum()), int((baseline & ~candidate).sum())
    if name != "WeMath":
        return Pair(known.role, {name: candidate.astype(float) - baseline}, clusters, gained, lost)
    values = zip(_wemath(candidate), _wemath(baseline), strict=True)
    differences = {column: ours - theirs for column, (ours, theirs) in zip(columns_of(name, name), values, strict=True)}
    return Pair(known.role, differences, np.arange(len(WEMATH)), gained, lost)


def _clusters(name: str, rows: int) -> np.ndarray:
    if name == "WeMath":
        return np.repeat(np.arange(len(WEMATH)), WEMATH)
    return np.arange(rows) // (SET if name == "HallusionBench" else 1)


def _answers(
    rng: np.random.Generator, clusters: np.ndarray, accuracy: float, discordance: float, effect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the baseline and the candidate are right. One uniform number decides both: [lost | … | gained]."""
    common = rng.random(len(clusters)) < COMMON
    drawn = np.where(common, rng.random(clusters[-1] + 1)[clusters], rng.random(len(clusters)))
    lost, gained = drawn < (discordance - effect) / 2, drawn > 1 - (discordance + effect) / 2
    baseline = lost | (~gained & (drawn < accuracy))
    return baseline, (baseline & ~lost) | gained


def _wemath(right: np.ndarray) -> tuple[Array, Array]:
    """Strict and loose value of each problem; the last row of a problem is the whole (`drift.evaluate.columns`)."""
    ends = np.cumsum(WEMATH)
    steps = np.add.reduceat(right.astype(int), ends - WEMATH) - right[ends - 1]
    every, final = steps == WEMATH - 1, right[ends - 1]
    strict = np.where(every, np.where(final, 1.0, 0.5), 0.0)
    return strict, np.where(final, (steps > 0).astype(float), strict)

"""Simulated models on benchmarks of the published sizes: what the gate decides from, without files.

A model knows each question, does not know it, or answers it by chance, right with probability ½ at every sample.
δ, the discordance, is the share of questions that only one of two models gets right when each is asked once. Half of it
is chance: a share δ of the questions, the same for all models. Half is change: a child of a model unlearns (δ/2 − e)/2
of all questions and learns (δ/2 + e)/2, e is the effect. Asked k times, a question's difference has a variance of
δ/2·(1 + 1/k) − e². A share `COMMON` of the rows of a cluster (WeMath's problems, HallusionBench's sets) follow one
draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from drift.config.catalog import KNOWN, columns_of
from drift.gate.statistics import Array, Comparison, Pair, compare_pairs

COMMON = 0.05**0.5
"""An intracluster correlation of 0.05, which is mild."""
SET = 5
"""Rows of a set of HallusionBench, about."""
WEMATH = np.repeat([3, 4], [360, 165])
"""Rows of each problem: its steps and the whole."""
ACCURACY = {"reasoning": 0.5, "perception": 0.7}

CHANCE = 2
"""Beside 0, not known, and 1, known."""

Model = dict[str, np.ndarray]
"""Of each row of each benchmark: 0, 1 or `CHANCE`."""
Replies = dict[str, np.ndarray]
"""Whether each is right. Shape [samples, rows]."""


def first(rng: np.random.Generator, discordance: float, names: Iterable[str] = KNOWN) -> Model:
    """A model, on the benchmarks named."""
    model = {}
    for name in names:
        drawn = _drawn(rng, name)
        known = discordance + (1 - discordance) * ACCURACY[KNOWN[name].role]
        model[name] = np.where(drawn < discordance, CHANCE, (drawn < known).astype(int))
    return model


def child(
    rng: np.random.Generator, parent: Model, discordance: float, effects: Mapping[str, float] | None = None
) -> Model:
    """A model that was trained from another. ``effects``: e by benchmark; 0 where not named."""
    return {
        name: _changed(_drawn(rng, name), known, discordance / 2, (effects or {}).get(name, 0.0))
        for name, known in parent.items()
    }


def replies(rng: np.random.Generator, model: Model, samples: int = 1) -> Replies:
    """All questions asked so many times."""
    return {
        name: np.where(known == CHANCE, rng.random((samples, len(known))) < 0.5, known == 1)
        for name, known in model.items()
    }


def pairs(ours: Replies, theirs: Replies) -> dict[str, Pair]:
    """A pair per benchmark."""
    return {name: _pair(name, ours[name], theirs[name]) for name in ours}


def compared(ours: Replies, theirs: Replies, seed: int = 0, resamples: int = 1000) -> Comparison:
    """The paired difference; nothing is unreadable."""
    return compare_pairs(pairs(ours, theirs), seed=seed, resamples=resamples)


def _drawn(rng: np.random.Generator, name: str) -> np.ndarray:
    """A uniform number for each row, the same for some rows of a cluster."""
    clusters = _clusters(name)
    common = rng.random(len(clusters)) < COMMON
    return np.where(common, rng.random(clusters[-1] + 1)[clusters], rng.random(len(clusters)))


def _clusters(name: str) -> np.ndarray:
    if name == "WeMath":
        return np.repeat(np.arange(len(WEMATH)), WEMATH)
    return np.arange(KNOWN[name].rows) // (SET if name == "HallusionBench" else 1)


def _changed(drawn: np.ndarray, known: np.ndarray, change: float, effect: float) -> np.ndarray:
    lost, gained = (max(0.0, (change - effect) / 2), max(0.0, (change + effect) / 2))
    unlearnt = (known == 1) & (drawn < lost / np.mean(known == 1))
    learnt = (known == 0) & (drawn < gained / np.mean(known == 0))
    return np.where(unlearnt, 0, np.where(learnt, 1, known))


def _pair(name: str, ours: np.ndarray, theirs: np.ndarray) -> Pair:
    better = ours.sum(axis=0) - theirs.sum(axis=0)
    gained, lost, samples = int((better > 0).sum()), int((better < 0).sum()), len(ours)
    values, clusters = [_values(name, right) for right in (ours, theirs)], _clusters(name)
    columns = [(column, *both) for column, *both in zip(columns_of(name, name), *values, strict=True)]
    return Pair(
        KNOWN[name].role,
        {column: (mine - other).mean(axis=0) for column, mine, other in columns},
        np.arange(len(WEMATH)) if name == "WeMath" else clusters,
        gained,
        lost,
        samples,
        {column: _noise(mine) + _noise(other) for column, mine, other in columns} if samples > 1 else {},
    )


def _noise(values: Array) -> Array:
    return np.asarray(values.var(axis=0, ddof=1) / len(values))


def _values(name: str, right: np.ndarray) -> tuple[Array, ...]:
    """Of each unit in each sample, column by column; the last row of a problem of WeMath is the whole."""
    if name != "WeMath":
        return (right.astype(float),)
    ends = np.cumsum(WEMATH)
    steps = np.add.reduceat(right.astype(int), ends - WEMATH, axis=1) - right[:, ends - 1]
    every, final = steps == WEMATH - 1, right[:, ends - 1]
    strict = np.where(every, np.where(final, 1.0, 0.5), 0.0)
    return strict, np.where(final, (steps > 0).astype(float), strict)

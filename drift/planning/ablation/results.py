"""What is known of each row in each cell, read from score folders: values, and differences to the arm compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from drift.config.catalog import ROLES, Role
from drift.evaluate.scores import Scores, read_scores
from drift.gate.answers import read_answers
from drift.gate.comparison import check_same
from drift.gate.statistics import Comparison, Pair, compare_pairs
from drift.ground.errors import DataError

Key = tuple[str, str]
"""Name of a cell, name of a row."""


@dataclass(frozen=True)
class Found:
    """Of a row in a cell: its scores, or why there are none ('': it has not been made yet)."""

    folder: Path | None
    reason: str = ""

    @cached_property
    def scores(self) -> Scores | None:
        """Raises DataError for a folder that cannot be read."""
        return read_scores(self.folder) if self.folder else None


@dataclass(frozen=True)
class Known:
    """Of runs, by the identity of a result: its scores, and what its step said where it failed. The first stays."""

    scores: dict[str, Path] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def note(
        self, identities: Mapping[str, str], scores: Callable[[str], Path | None], failed: Mapping[str, str]
    ) -> None:
        """What a run has: `identities` by arm, the folder of an arm's scores, and what failed, '' outside the loop."""
        for arm, identity in identities.items():
            if identity not in self.scores and (folder := scores(arm)):
                self.scores[identity] = folder
            if said := failed.get(arm) or failed.get(""):
                self.reasons.setdefault(identity, said)

    def found(self, identity: str) -> Found:
        """Of a row."""
        folder = self.scores.get(identity)
        return Found(folder, "" if folder else self.reasons.get(identity, ""))


@dataclass(frozen=True)
class Sums:
    """Of one row: percent of each column and the mean of each role over the columns asked for, by cell."""

    columns: Mapping[str, Mapping[str, float]]
    roles: Mapping[Role, Mapping[str, float]]


def sums_of(found: Mapping[str, Found], columns: Sequence[str]) -> Sums:
    """Of one row, from what its cells have. ``columns``: empty stands for all."""
    by_column: dict[str, dict[str, float]] = {}
    by_role: dict[Role, dict[str, float]] = {}
    for cell, one in found.items():
        if one.scores is None:
            continue
        for role in ROLES:
            values = {n: m.mean for n, m in one.scores.columns(role).items() if not columns or n in columns}
            for name, value in values.items():
                by_column.setdefault(name, {})[cell] = value
            if values:
                by_role.setdefault(role, {})[cell] = float(np.mean(list(values.values())))
    return Sums(by_column, by_role)


def paired(ours: Sequence[Path], theirs: Sequence[Path], columns: Sequence[str], confidence: float) -> Comparison:
    """Two rows compared question by question, the mean over cells of each question's difference.

    Raises DataError, naming both folders, where they were measured otherwise, or cells had other questions.
    """
    each = [_pairs(*folders, columns) for folders in zip(ours, theirs, strict=True)]
    pooled = {name: _pooled(name, [pairs[name] for pairs in each if name in pairs], len(each)) for name in each[0]}
    return compare_pairs(pooled, confidence=confidence)


def _pairs(ours: Path, theirs: Path, columns: Sequence[str]) -> dict[str, Pair]:
    mine, other = read_scores(ours), read_scores(theirs)
    check_same(ours, theirs, mine, other)
    pairs = {name: one.pair() for name, one in read_answers(ours, theirs, mine.benchmarks).items()}
    kept = {name: _of_columns(pair, columns) for name, pair in pairs.items()}
    return {name: pair for name, pair in kept.items() if pair.differences}


def _of_columns(pair: Pair, columns: Sequence[str]) -> Pair:
    if not columns:
        return pair
    return replace(pair, differences={name: one for name, one in pair.differences.items() if name in columns})


def _pooled(name: str, pairs: Sequence[Pair], cells: int) -> Pair:
    """One pair of several draws of both models on the same questions: the mean of d over the draws."""
    first = pairs[0]
    if len(pairs) < cells or not all(np.array_equal(pair.clusters, first.clusters) for pair in pairs):
        raise DataError(f"{name}: not every cell asked the same questions; run all of them with the same benchmarks")
    mean = {column: np.mean([pair.differences[column] for pair in pairs], axis=0) for column in first.differences}
    leading = next(iter(mean.values()))
    return replace(first, differences=mean, noise={}, gained=int((leading > 0).sum()), lost=int((leading < 0).sum()))

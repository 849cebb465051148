"""Both models' answers to one benchmark, unit by unit and sample by sample, and which of them could be read.

Every question is answered by both, once or k times; its value is the mean over its samples. A unit counts as read
where every reply in it held an answer (`Sample.read` is not `none`). What only one of two models writes readably is a
difference of form: `common_pair` leaves it out, so that what remains is a difference of knowledge.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drift.config.catalog import Role
from drift.evaluate.columns import columns
from drift.evaluate.samples import Sample, read_samples
from drift.evaluate.scores import BenchmarkScore
from drift.gate.statistics import Array, Codes, Pair
from drift.ground.errors import DataError

UNREAD = "none"

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Side:
    """One model's values in [0, 1] by column, and whether each unit was read. Shapes [samples, units]."""

    values: dict[str, Array]
    read: Array
    """1 or 0."""
    reads: Counter[str]
    """How its replies were read."""

    def mean(self, column: str) -> Array:
        """Over the samples of each unit."""
        return np.asarray(self.values[column].mean(axis=0))

    def mean_read(self, column: str) -> Array:
        """Over the samples that were read; 0 where none was."""
        return np.asarray((self.values[column] * self.read).sum(axis=0) / np.maximum(self.read.sum(axis=0), 1))

    def noise(self, column: str) -> Array:
        """Variance of `mean`, from how much a unit's samples differ."""
        values = self.values[column]
        return np.asarray(values.var(axis=0, ddof=1) / len(values))


@dataclass(frozen=True)
class Answers:
    """Two models on the same questions of one benchmark, in the same order."""

    role: Role
    ours: Side
    theirs: Side
    clusters: Codes
    """Of each unit."""
    gained: int
    """Questions that the candidate answered right more often."""
    lost: int

    @property
    def read_differently(self) -> bool:
        return not np.array_equal(self.ours.read, self.theirs.read)

    def pair(self) -> Pair:
        """The mean over the samples of each unit."""
        samples = len(self.ours.read)
        names = list(self.ours.values)
        noise = {name: self.ours.noise(name) + self.theirs.noise(name) for name in names} if samples > 1 else {}
        differences = {name: self.ours.mean(name) - self.theirs.mean(name) for name in names}
        return Pair(self.role, differences, self.clusters, self.gained, self.lost, samples, noise)

    def common_pair(self) -> Pair | None:
        """The same over the units that both answered readably at least once; None if there are none."""
        kept = (self.ours.read.any(axis=0)) & (self.theirs.read.any(axis=0))
        if not kept.any():
            return None
        means = {name: self.ours.mean_read(name) - self.theirs.mean_read(name) for name in self.ours.values}
        differences = {name: d[kept] for name, d in means.items()}
        first = next(iter(differences.values()))
        return Pair(
            self.role,
            differences,
            np.unique(self.clusters[kept], return_inverse=True)[1],
            int((first > 0).sum()),
            int((first < 0).sum()),
            len(self.ours.read),
        )


def read_answers(candidate: Path, baseline: Path, benchmarks: Mapping[str, BenchmarkScore]) -> dict[str, Answers]:
    """By benchmark. Raises DataError, naming both folders, where a question was answered in only one of them."""
    ours, theirs = (read_samples(folder) for folder in (candidate, baseline))
    if missing := sorted(_by_key(ours).keys() ^ _by_key(theirs).keys()):
        benchmark, index, number = missing[0]
        said = f" (sample {number})" if number else ""
        where = f"{candidate} and {baseline}: {benchmark} index {index}{said}"
        raise DataError(f"{where} is in only one; evaluate both again")
    return match(ours, theirs, benchmarks)


def match(
    ours: Sequence[Sample], theirs: Sequence[Sample], benchmarks: Mapping[str, BenchmarkScore]
) -> dict[str, Answers]:
    """By benchmark, from both models' samples of the same questions, in whatever order.

    Raises DataError where some questions have more samples than others.
    """
    mine, other = _by_key(ours), _by_key(theirs)
    return {
        name: _answers(name, benchmarks[name], mine, other, [key for key in mine if key[0] == name])
        for name in dict.fromkeys(benchmark for benchmark, *_ in mine)
    }


@dataclass(frozen=True)
class Replies:
    """Of one score folder: how many replies were asked for, and how many of them went otherwise."""

    n: int
    failed: int
    truncated: int
    unreadable: int
    """Given, but without a readable answer."""


def count_replies(folder: Path) -> Replies:
    """Over all benchmarks and samples."""
    samples = read_samples(folder)
    return Replies(
        n=len(samples),
        failed=sum(sample.status == "failed" for sample in samples),
        truncated=sum(sample.finish_reason == "length" for sample in samples),
        unreadable=sum(sample.status != "failed" and read_of(sample) == UNREAD for sample in samples),
    )


def count_reads(answers: Mapping[str, Answers]) -> dict[str, dict[Role, dict[str, int]]]:
    """How many replies of each role were read in which way, of `candidate` and `baseline`."""
    counted: dict[str, dict[Role, dict[str, int]]] = {"candidate": {}, "baseline": {}}
    for one in answers.values():
        for name, side in (("candidate", one.ours), ("baseline", one.theirs)):
            known = counted[name].get(one.role, {})
            counted[name][one.role] = dict(Counter(known) + side.reads)
    return counted


def read_of(sample: Sample) -> str:
    """How the reply's answer was read, `UNREAD` if there was none to read."""
    return UNREAD if sample.status in ("unparsed", "failed") else sample.read or "bare"


def number_of(sample: Sample) -> int:
    """Which of a question's samples it is, from 0."""
    return sample.sample


def _by_key(samples: Sequence[Sample]) -> dict[Key, Sample]:
    return {(sample.benchmark, sample.index, number_of(sample)): sample for sample in samples}


def _answers(
    name: str, score: BenchmarkScore, ours: Mapping[Key, Sample], theirs: Mapping[Key, Sample], keys: Sequence[Key]
) -> Answers:
    rounds = _rounds(name, keys)
    units = columns(name, score.format, [ours[key] for key in rounds[0]])
    clusters = [unit.cluster for unit in next(iter(units.values()))]
    better = [_rate(ours, one) - _rate(theirs, one) for one in zip(*rounds, strict=True)]
    return Answers(
        role=score.role,
        ours=_side(name, score.format, ours, rounds),
        theirs=_side(name, score.format, theirs, rounds),
        clusters=np.unique(clusters, return_inverse=True)[1],
        gained=sum(one > 0 for one in better),
        lost=sum(one < 0 for one in better),
    )


def _rounds(name: str, keys: Sequence[Key]) -> list[list[Key]]:
    """The keys of each sample number, each in the order of the questions."""
    indices = list(dict.fromkeys(index for _, index, _ in keys))
    numbers = sorted({number for *_, number in keys})
    if len(keys) != len(indices) * len(numbers):
        raise DataError(f"{name}: not every question has {len(numbers)} samples; evaluate both again")
    return [[(name, index, number) for index in indices] for number in numbers]


def _rate(samples: Mapping[Key, Sample], keys: Sequence[Key]) -> int:
    return sum(samples[key].correct for key in keys)


def _side(name: str, form: str, samples: Mapping[Key, Sample], rounds: Sequence[Sequence[Key]]) -> Side:
    replies = [[samples[key] for key in keys] for keys in rounds]
    found = [columns(name, form, one) for one in replies]
    return Side(
        values={column: np.array([[unit.value for unit in one[column]] for one in found]) for column in found[0]},
        read=np.array([_read_units(name, form, one) for one in replies]),
        reads=Counter(read_of(sample) for one in replies for sample in one),
    )


def _read_units(name: str, form: str, samples: Sequence[Sample]) -> list[float]:
    """1 for every unit all of whose replies were read: it would be right if reading were all that it takes."""
    as_read = [dataclasses.replace(sample, correct=read_of(sample) != UNREAD) for sample in samples]
    first = next(iter(columns(name, form, as_read).values()))
    return [float(unit.value == 1) for unit in first]

"""Scores of one model: headline columns of each benchmark with Wilson's interval, and the mean of each role's columns.

p mean of a column's values, n units (`drift.evaluate.columns`), K columns of a role, [l, u] interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.config.catalog import ROLES, Role
from drift.config.evaluate import BenchmarkConfig
from drift.evaluate.columns import Unit, columns, metrics
from drift.evaluate.samples import JUDGE_FAILED, JUDGE_RANDOM, Sample
from drift.ground.artifacts import SCHEMA, read_json, write_json
from drift.ground.errors import DataError

__all__ = [
    "FILE",
    "ROLES",
    "BenchmarkScore",
    "Mean",
    "Role",
    "Scores",
    "read_scores",
    "score_benchmarks",
    "write_scores",
]

FILE = "scores.json"


@dataclass(frozen=True)
class Mean:
    """A column, or the mean of a role's columns, in percent, with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchmarkScore:
    """Headline columns of one benchmark in percent, and how many of its ``n`` answers went otherwise."""

    role: Role
    format: str
    columns: dict[str, Mean]
    n: int
    """Answers that were asked for: the questions, times `samples`."""
    failed: int
    """Not asked (broken image, no answer): counted as wrong."""
    truncated: int
    """Replies that hit `max_new_tokens`."""
    unparsed: int
    """Replies that hold no answer: counted as wrong."""
    undetermined: int = 0
    """Answers the verifier gave up on: counted as wrong."""
    metrics: dict[str, float] = field(default_factory=dict)
    """In percent: what else the benchmark reports, and the share right of each category of the table."""
    judge: dict[str, float] = field(default_factory=dict)
    """With a judge: percent of the answers it decided on which the rule agrees (`agreement`; absent if it decided
    none), how many `failed` and were chosen at `random`."""
    read: dict[str, int] = field(default_factory=dict)
    """How many answers the rule found `boxed`, `declared`, `bare` or as `none`; empty if it was not kept."""
    samples: int = 1
    """Answers to each question."""
    overlaps: dict[str, int] = field(default_factory=dict)
    """By benchmark, or `training_set`: how many of the questions it holds too (`drift.evaluate.overlaps`)."""

    @property
    def questions(self) -> int:
        return self.n // self.samples


@dataclass(frozen=True)
class Scores:
    """`scores.json`: what was measured, of which model, how, and on which data."""

    label: str
    protocol: dict[str, Any]
    protocol_fingerprint: str
    data_fingerprint: str
    model_sha256: str
    """Contents of the model's directory; empty for a served model, whose contents nobody saw: it is not registered."""
    confidence: float
    benchmarks: dict[str, BenchmarkScore]
    reasoning: Mean | None
    perception: Mean | None
    published: str | None = None
    """Row of `drift.config.published` that stands beside these scores."""
    judge_url: str | None = None
    """Where the judge was; no part of the protocol."""

    @property
    def judged(self) -> bool:
        """Whether a judge decided, so that the rule may agree with it or not."""
        return any(score.judge for score in self.benchmarks.values())

    def role(self, role: Role) -> Mean | None:
        """The mean of a role's columns, in percent; None without a benchmark of it."""
        return self.reasoning if role == "reasoning" else self.perception

    def columns(self, role: Role | None = None) -> dict[str, Mean]:
        """The headline columns, of one role or all."""
        scores = [score for score in self.benchmarks.values() if role in (None, score.role)]
        return {name: mean for score in scores for name, mean in score.columns.items()}

    def count(self, name: str) -> int:
        """Sum of `n`, `failed`, `truncated`, `unparsed` or `undetermined` over the benchmarks."""
        return sum(getattr(score, name) for score in self.benchmarks.values())


def score_benchmarks(
    samples: Sequence[Sample], benchmarks: Mapping[str, BenchmarkConfig], confidence: float
) -> dict[str, BenchmarkScore]:
    """The score of each benchmark that has samples, by name."""
    grouped = {name: [sample for sample in samples if sample.benchmark == name] for name in sorted(benchmarks)}
    return {name: _score(name, mine, benchmarks[name], confidence) for name, mine in grouped.items() if mine}


def _score(name: str, samples: Sequence[Sample], benchmark: BenchmarkConfig, confidence: float) -> BenchmarkScore:
    status = Counter(sample.status for sample in samples)
    headline = columns(name, benchmark.format, samples)
    return BenchmarkScore(
        role=benchmark.role,
        format=benchmark.format,
        columns={column: _interval(units, confidence) for column, units in headline.items()},
        n=len(samples),
        failed=status["failed"],
        truncated=sum(sample.finish_reason == "length" for sample in samples),
        unparsed=status["unparsed"],
        undetermined=status["undetermined"],
        metrics=metrics(benchmark.format, samples) | _by_category(samples),
        judge=_judge(samples),
        read={way: count for way, count in sorted(Counter(sample.read for sample in samples).items()) if way},
        samples=len({sample.sample for sample in samples}),
    )


def _interval(units: Sequence[Unit], confidence: float) -> Mean:
    """100 p with Wilson's interval, which takes units as independent; with values of ½ it is the wider one."""
    from statsmodels.stats.proportion import proportion_confint

    right, n = math.fsum(unit.value for unit in units), len(units)
    low, high = proportion_confint(right, n, alpha=1 - confidence, method="wilson")
    return Mean(100 * right / n, 100 * float(low), 100 * float(high))


def role_mean(scores: Mapping[str, BenchmarkScore], role: Role) -> Mean | None:
    """Mean m of the role's K columns; None if it has none.

    The interval combines the columns' own ones (Zou and Donner 2008, "MOVER"), so it stays honest at 0 and 100 %:
    [m − √Σ(pᵢ−lᵢ)²/K, m + √Σ(uᵢ−pᵢ)²/K]. With K = 1 it is Wilson's.
    """
    mine = [mean for score in scores.values() if score.role == role for mean in score.columns.values()]
    if not mine:
        return None
    mean = sum(column.mean for column in mine) / len(mine)
    below = math.hypot(*(column.mean - column.low for column in mine)) / len(mine)
    above = math.hypot(*(column.high - column.mean for column in mine)) / len(mine)
    return Mean(mean, mean - below, mean + above)


def write_scores(folder: Path, scores: Scores) -> None:
    """`scores.json`."""
    write_json(folder / FILE, {"schema": SCHEMA, **dataclasses.asdict(scores)})


def read_scores(folder: Path) -> Scores:
    """The scores of a folder. Raises DataError if they are missing or of another schema."""
    raw = read_json(folder / FILE)
    try:
        if raw.pop("schema") != SCHEMA:
            raise DataError(f"{folder / FILE}: written with another schema, this version reads {SCHEMA}")
        benchmarks = {name: _benchmark_score(score) for name, score in raw.pop("benchmarks").items()}
        reasoning, perception = (None if (mean := raw.pop(role)) is None else Mean(**mean) for role in ROLES)
        return Scores(**raw, benchmarks=benchmarks, reasoning=reasoning, perception=perception)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / FILE}: not a score table ({error}); `drift evaluate` writes it") from error


def _benchmark_score(raw: dict[str, Any]) -> BenchmarkScore:
    return BenchmarkScore(**raw | {"columns": {name: Mean(**mean) for name, mean in raw["columns"].items()}})


def _by_category(samples: Sequence[Sample]) -> dict[str, float]:
    categories = sorted({sample.category for sample in samples if sample.category})
    grouped = {name: [sample.correct for sample in samples if sample.category == name] for name in categories}
    return {name: 100 * sum(right) / len(right) for name, right in grouped.items()}


def _judge(samples: Sequence[Sample]) -> dict[str, float]:
    judged = [sample for sample in samples if sample.rule is not None]
    if not judged:
        return {}
    agreed = [sample.correct == (sample.rule == "correct") for sample in judged if sample.status != "undetermined"]
    errors = Counter(sample.error for sample in judged)
    agreement = {"agreement": 100 * sum(agreed) / len(agreed)} if agreed else {}
    return agreement | {
        "failed": float(errors[JUDGE_FAILED]),
        "random": float(errors[JUDGE_RANDOM]),
    }

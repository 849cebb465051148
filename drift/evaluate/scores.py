"""Scores of one model: percent right per benchmark with Wilson's interval, and the mean of each role.

p share right, n questions, K benchmarks of a role, [l, u] interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drift.artifacts import SCHEMA, read_json, write_json
from drift.errors import DataError
from drift.evaluate.samples import Sample

FILE = "scores.json"

Role = Literal["reasoning", "perception"]
ROLES: tuple[Role, ...] = ("reasoning", "perception")


@dataclass(frozen=True)
class Mean:
    """Mean over the benchmarks of a role, in percent, with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchmarkScore:
    """Percent right of one benchmark with its interval, and how many of its ``n`` questions went otherwise."""

    role: Role
    headline: float
    low: float
    high: float
    n: int
    failed: int
    """Not asked (broken image, no answer): counted as wrong."""
    truncated: int
    """Replies that hit `max_new_tokens`."""
    unparsed: int
    """Replies that hold no answer: counted as wrong."""
    undetermined: int = 0
    """Answers the verifier gave up on: counted as wrong."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Percent right per category of the table."""


@dataclass(frozen=True)
class Scores:
    """`scores.json`: what was measured, of which model, how, and on which data."""

    label: str
    protocol: dict[str, Any]
    protocol_fingerprint: str
    data_fingerprint: str
    model_sha256: str
    confidence: float
    benchmarks: dict[str, BenchmarkScore]
    reasoning: Mean | None
    perception: Mean | None

    def role(self, role: Role) -> Mean | None:
        return self.reasoning if role == "reasoning" else self.perception

    def count(self, name: str) -> int:
        """Sum of `n`, `failed`, `truncated`, `unparsed` or `undetermined` over the benchmarks."""
        return sum(getattr(score, name) for score in self.benchmarks.values())


def score_benchmarks(samples: Sequence[Sample], confidence: float) -> dict[str, BenchmarkScore]:
    """The score of each benchmark, by name."""
    names = sorted({sample.benchmark for sample in samples})
    return {name: score([sample for sample in samples if sample.benchmark == name], confidence) for name in names}


def score(samples: Sequence[Sample], confidence: float) -> BenchmarkScore:
    """The score of one benchmark: 100 p, with Wilson's interval, which takes questions as independent."""
    from statsmodels.stats.proportion import proportion_confint

    right, n = sum(sample.correct for sample in samples), len(samples)
    low, high = proportion_confint(right, n, alpha=1 - confidence, method="wilson")
    status = Counter(sample.status for sample in samples)
    return BenchmarkScore(
        role="reasoning" if samples[0].role == "reasoning" else "perception",
        headline=100 * right / n,
        low=100 * float(low),
        high=100 * float(high),
        n=n,
        failed=status["failed"],
        truncated=sum(sample.finish_reason == "length" for sample in samples),
        unparsed=status["unparsed"],
        undetermined=status["undetermined"],
        metrics=_by_category(samples),
    )


def role_mean(scores: Mapping[str, BenchmarkScore], role: Role) -> Mean | None:
    """Mean m of the role's K benchmarks; None if it has none.

    The interval combines the benchmarks' own ones (Zou and Donner 2008, "MOVER"), so it stays honest at 0 and 100 %:
    [m − √Σ(pᵢ−lᵢ)²/K, m + √Σ(uᵢ−pᵢ)²/K]. With K = 1 it is Wilson's.
    """
    mine = [score for score in scores.values() if score.role == role]
    if not mine:
        return None
    mean = sum(score.headline for score in mine) / len(mine)
    below = math.hypot(*(score.headline - score.low for score in mine)) / len(mine)
    above = math.hypot(*(score.high - score.headline for score in mine)) / len(mine)
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
        benchmarks = {name: BenchmarkScore(**score) for name, score in raw.pop("benchmarks").items()}
        reasoning, perception = (None if (mean := raw.pop(role)) is None else Mean(**mean) for role in ROLES)
        return Scores(**raw, benchmarks=benchmarks, reasoning=reasoning, perception=perception)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / FILE}: not a score table ({error}); `drift evaluate` writes it") from error


def _by_category(samples: Sequence[Sample]) -> dict[str, float]:
    categories = sorted({sample.category for sample in samples if sample.category})
    grouped = {name: [sample.correct for sample in samples if sample.category == name] for name in categories}
    return {name: 100 * sum(right) / len(right) for name, right in grouped.items()}

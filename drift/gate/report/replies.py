"""What the replies were like: right by category, how long, how many were cut or held no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drift.evaluate.samples import Sample
from drift.gate.answers import UNREAD, read_of
from drift.gate.report.models import Model


@dataclass(frozen=True)
class Category:
    """A category of a benchmark: how many of ``n`` answers each model got right, in percent."""

    benchmark: str
    name: str
    n: int
    right: dict[str, float]


@dataclass(frozen=True)
class Length:
    """Replies of one model to one benchmark, with their thinking. Lengths in characters; shares in percent."""

    benchmark: str
    model: str
    n: int
    median: float
    long: float
    """The 90th percentile."""
    cut: float
    """At `max_new_tokens`."""
    unread: float
    """Given, but without a readable answer."""
    failed: float


def categories(models: Sequence[Model]) -> list[Category]:
    """By benchmark and name; none of a benchmark whose table has no categories."""
    found: dict[tuple[str, str], dict[str, list[bool]]] = {}
    for model in models:
        for sample in model.samples:
            if sample.category:
                place = found.setdefault((sample.benchmark, sample.category), {})
                place.setdefault(model.name, []).append(sample.correct)
    return [
        Category(
            benchmark,
            name,
            max(map(len, right.values())),
            {model: 100 * float(np.mean(marks)) for model, marks in right.items()},
        )
        for (benchmark, name), right in sorted(found.items())
    ]


def lengths(models: Sequence[Model]) -> list[Length]:
    """Of every model on every benchmark, in the order of the scores."""
    return [
        _length(name, model.name, [sample for sample in model.samples if sample.benchmark == name])
        for name in models[0].scores.benchmarks
        for model in models
    ]


def _length(benchmark: str, model: str, samples: Sequence[Sample]) -> Length:
    sizes = [len(whole(sample)) for sample in samples if sample.raw is not None] or [0]

    def share(chosen: Sequence[bool]) -> float:
        return 100 * sum(chosen) / max(len(chosen), 1)

    return Length(
        benchmark=benchmark,
        model=model,
        n=len(samples),
        median=float(np.median(sizes)),
        long=float(np.percentile(sizes, 90)),
        cut=share([sample.finish_reason == "length" for sample in samples]),
        unread=share([sample.status != "failed" and read_of(sample) == UNREAD for sample in samples]),
        failed=share([sample.status == "failed" for sample in samples]),
    )


def parts(sample: Sample) -> tuple[str, str]:
    """(thinking, the rest of the reply): `Sample.raw` holds the thinking too, unless a server parted it off."""
    thinking, raw = sample.thinking or "", sample.raw or ""
    return thinking, raw.replace(thinking, "…", 1) if thinking else raw


def whole(sample: Sample) -> str:
    """All that the model wrote."""
    thinking, raw = sample.thinking or "", sample.raw or ""
    return raw if thinking in raw else thinking + raw

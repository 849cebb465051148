"""Every model of a run with its scores and its answers, read once: what all parts of the report are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drift.evaluate.samples import Sample, read_samples
from drift.evaluate.scores import Scores, read_scores
from drift.gate.report.summary import Folders


@dataclass(frozen=True)
class Model:
    """A model of the run: the unmodified VLM or an arm."""

    name: str
    scores: Scores
    samples: list[Sample]


def read_models(baseline: Path, arms: Mapping[str, Folders]) -> list[Model]:
    """The unmodified VLM first, then the arms in their order. Raises DataError for a folder that cannot be read."""
    vlm = read_scores(baseline)
    return [
        Model(vlm.label, vlm, read_samples(baseline)),
        *(Model(name, read_scores(scores), read_samples(scores)) for name, (scores, _) in arms.items()),
    ]

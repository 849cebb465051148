"""The report's tables as CSV: each a row per number, for a spreadsheet or a notebook."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from drift.evaluate.scores import ROLES, Mean
from drift.gate.report.contrasts import Contrasts
from drift.gate.report.models import Model
from drift.gate.report.replies import Category, Length


def tables(
    models: Sequence[Model], found: Contrasts, categories: Sequence[Category], lengths: Sequence[Length]
) -> Mapping[str, str]:
    """Content by file name. Percent, points and characters, as the page has them, with all their digits."""
    return {
        "results.csv": _csv(("model", "column", "role", "percent", "low", "high"), _results(models)),
        "differences.csv": _csv(
            ("model", "against", "column", "points", "low", "high"),
            (
                (one, other, name, contrast.points, contrast.low, contrast.high)
                for (one, other), named in found.items()
                for name, contrast in named.items()
            ),
        ),
        "categories.csv": _csv(
            ("benchmark", "category", "n", "model", "percent"),
            (
                (one.benchmark, one.name, one.n, model, value)
                for one in categories
                for model, value in one.right.items()
            ),
        ),
        "replies.csv": _csv(
            ("benchmark", "model", "n", "median_characters", "p90_characters", "cut", "unread", "failed"),
            (
                (one.benchmark, one.model, one.n, one.median, one.long, one.cut, one.unread, one.failed)
                for one in lengths
            ),
        ),
    }


def _results(models: Sequence[Model]) -> Iterable[Sequence[object]]:
    for model in models:
        means = {f"{role} mean": (role, model.scores.role(role)) for role in ROLES}
        columns = {name: (role, mean) for role in ROLES for name, mean in model.scores.columns(role).items()}
        for name, (role, mean) in {**means, **columns}.items():
            if isinstance(mean, Mean):
                yield model.name, name, role, mean.mean, mean.low, mean.high


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return buffer.getvalue()

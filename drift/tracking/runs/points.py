"""Points of a run's curves, one a step: a training that was killed repeats the steps behind its last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drift.tracking.runs import fields
from drift.tracking.telling.live import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOOKS = ("live/", "system/")
"""What is looked at now and then: many looks may fall on one step."""


class Points:
    """Logs points of runs; of a step that a curve has already, the first stays."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._known: dict[str, set[tuple[str, int]]] = {}

    def log(self, run: str, points: Sequence[Point]) -> None:
        """Log those that are new."""
        where = [(fields.named(name), step) for name, _, _, step in points]
        curves = {(name, step) for name, step in where if step and not name.startswith(LOOKS)}
        known = self._of(run) if curves else set()
        new = [point for point, at in zip(points, where, strict=True) if at not in known]
        fields.log_metrics(self._client, run, new)
        known |= curves

    def _of(self, run: str) -> set[tuple[str, int]]:
        """Curve and step of what the run has, asked for once."""
        if run not in self._known:
            names = (name for name in self._client.get_run(run).data.metrics if not name.startswith(LOOKS))
            history = (point for name in names for point in self._client.get_metric_history(run, name))
            self._known[run] = {(point.key, point.step) for point in history if point.step}
        return self._known[run]

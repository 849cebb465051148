"""The funnel: at which stage each generation was left out, and why. Two bytes a generation, whatever its length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Fate = tuple[str, str]
"""Stage and reason."""


class Funnel:
    """The fate of every generation of a pool, by its number there. Each has one, so that the counts add up."""

    def __init__(self, generations: int) -> None:
        self._stages: list[str] = []
        self._known: list[Fate] = []
        self._fates = np.full(generations, -1, dtype=np.int16)

    def open(self, stage: str) -> None:
        """The next stage: what nothing has left out yet comes to it."""
        self._stages.append(stage)

    def reject(self, number: int, stage: str, reason: str) -> None:
        """Leave out a generation that still was in."""
        fate = (stage, reason)
        if fate not in self._known:
            self._known.append(fate)
        assert self._fates[number] < 0 and stage in self._stages, (number, fate)
        self._fates[number] = self._known.index(fate)

    def fate(self, number: int) -> Fate | None:
        """Where a generation was left out; None if it is still in."""
        return self._known[self._fates[number]] if self._fates[number] >= 0 else None

    def stages(self) -> list[dict[str, Any]]:
        """What each stage was given, what it let through, and the rest by reason: for `funnel.json`."""
        counts = {fate: int((self._fates == kind).sum()) for kind, fate in enumerate(self._known)}
        stages: list[dict[str, Any]] = []
        left = len(self._fates)
        for stage in self._stages:
            reasons = {reason: count for (at, reason), count in counts.items() if at == stage}
            stages.append(noted(stage, left, left - sum(reasons.values()), reasons))
            left = stages[-1]["out"]
        return stages

    def rejected(self) -> Iterator[tuple[int, Fate]]:
        """Every generation left out, with its fate: stage by stage, in the pool's order."""
        for stage in self._stages:
            kinds = [kind for kind, (at, _) in enumerate(self._known) if at == stage]
            for number in np.flatnonzero(np.isin(self._fates, kinds)).tolist():
                yield number, self._known[self._fates[number]]


def noted(stage: str, before: int, after: int, reasons: Mapping[str, int]) -> dict[str, Any]:
    """A stage's line in `funnel.json`."""
    return {"stage": stage, "in": before, "out": after, "reasons": dict(sorted(reasons.items()))}

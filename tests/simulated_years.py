"""Retrainings on a schedule, each looked at by the gate's own rules: who is champion after so many weeks.

Only reasoning is simulated; that perception is kept is one condition more. A retraining is a child of the reigning
champion, or of φ_VL while there is none, and its true reasoning differs by ``step`` points from its parent's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from drift.config.catalog import SUITES
from drift.config.gate import GateConfig
from drift.gate.rules import BEST, gain, no_worse
from drift.gate.statistics import Comparison
from drift.gate.succession import succession
from tests.simulated_pairs import Replies, child, compared, first, replies

POINT = 0.029 / 3
"""e of every reasoning question that makes one point of the suite's mean: WeMath's loose column moves more."""


@dataclass(frozen=True)
class Champion:
    """Its answers, and its true points above φ_VL."""

    model: dict[str, np.ndarray]
    answers: Replies
    points: float


def every(step: float) -> dict[str, float]:
    """The effects of a retraining by so many points of reasoning."""
    return dict.fromkeys(SUITES["reasoning"], step * POINT)


def gains(rng: np.random.Generator, discordance: float, weeks: int) -> Iterator[Comparison]:
    """Retrainings that are as good as φ_VL, against φ_VL's one set of answers."""
    vlm = first(rng, discordance, SUITES["reasoning"])
    baseline = replies(rng, vlm)
    for _ in range(weeks):
        yield compared(replies(rng, child(rng, vlm, discordance)), baseline, resamples=1)


def reign(
    rng: np.random.Generator, config: GateConfig, *, step: float, weeks: int, start: float = 8.0, to_best: bool = True
) -> list[Champion]:
    """The champion after each week, the first one at ``start`` points. ``to_best``: whether the best one ever counts;
    if not, whoever is not worse than the reigning one takes over."""
    vlm = first(rng, 0.15, SUITES["reasoning"])
    baseline = replies(rng, vlm)
    model = child(rng, vlm, 0.2, every(start))
    champion = best = Champion(model, replies(rng, model), start)
    history = []
    for _ in range(weeks):
        model = child(rng, champion.model, 0.15, every(step))
        candidate = Champion(model, replies(rng, model), champion.points + step)
        to_reigning, to_the_best = (
            compared(candidate.answers, one.answers, resamples=1) for one in (champion, best if to_best else champion)
        )
        to_vlm = compared(candidate.answers, baseline, resamples=1)
        checks = [gain(to_vlm, config), no_worse(to_reigning, config), no_worse(to_the_best, config, BEST)]
        passed = all(check.passed for check in checks)
        decided = succession(config, passed, to_reigning, to_the_best, itself=False)
        champion = candidate if (decided.promotes if to_best else passed) else champion
        best = candidate if decided.best_ever else best
        history.append(champion)
    return history

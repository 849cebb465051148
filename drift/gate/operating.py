"""What the gate can tell apart on these benchmarks: how likely it passes a model of a given true difference.

By the normal approximation: estimates of all columns ~ N(true differences, their covariance over clusters), the
rules against the baseline applied to `DRAWS` of them jointly, fixed seed. The covariance is that of the comparison
at hand, so it holds for models that disagree with the baseline on about as many questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drift.config.catalog import ROLES, SUITES, Role, columns_of
from drift.config.gate import GateConfig
from drift.config.published import ROWS
from drift.gate.resolution import samples_needed
from drift.gate.rules import of_role
from drift.gate.statistics import Array, Comparison, detectable_effect

Flags = np.ndarray[Any, np.dtype[np.bool_]]

DRAWS = 20_000

BEFORE, AFTER = "qwen2_5_vl_7b", "drift_vl_7b"
"""Rows of the paper's tables (`drift.config.published`): its baseline, and DRIFT."""


@dataclass(frozen=True)
class Operating:
    """Probabilities that the rules against the baseline pass, and minimal detectable effects in points."""

    equal: float
    """A model that is as good as the baseline everywhere."""
    paper: float
    """A model with the paper's gains."""
    reasoning_detectable: float
    perception_detectable: float
    samples: int | None
    """Of each question, that show `max_perception_loss`; None if no reasonable number does."""


def operating(config: GateConfig, comparison: Comparison) -> Operating:
    """The gate's operating characteristics at the discordance of ``comparison``."""
    return Operating(
        equal=chance(config, comparison, {}),
        paper=chance(config, comparison, paper_gains(comparison)),
        reasoning_detectable=_detectable_gain(config, comparison),
        perception_detectable=(perception := of_role(comparison, "perception")).detectable,
        samples=samples_needed(perception, config.max_perception_loss, config.confidence),
    )


def paper_gains(comparison: Comparison) -> dict[str, float]:
    """The paper's gain of each column; a column that it does not have takes the mean of its role's."""
    before, after = ROWS[BEFORE].percent, ROWS[AFTER].percent
    gains = {column: after[column] - before[column] for column in before}
    known = {role: [column for name in SUITES[role] for column in columns_of(name, name)] for role in ROLES}
    means = {role: float(np.mean([gains[column] for column in known[role]])) for role in ROLES}
    return {column: gains.get(column, means[role]) for column, role in comparison.roles.items()}


def chance(config: GateConfig, comparison: Comparison, gains: Mapping[str, float]) -> float:
    """Probability that the rules against the baseline pass a model with these true gains; 0 where not named."""
    names = list(comparison.columns)
    true = [gains.get(name, 0.0) for name in names]
    rng = np.random.default_rng(config.seed)
    seen = rng.multivariate_normal(true, comparison.covariance, size=DRAWS, method="eigh")
    estimates = dict(zip(names, seen.T, strict=True))
    reasoning = _lower(config.look_confidence, comparison, estimates, "reasoning") > config.min_reasoning_gain
    perception = _lower(config.confidence, comparison, estimates, "perception") > -config.max_perception_loss
    return float((reasoning & perception & ~_any_worse(comparison, estimates)).mean())


def _lower(confidence: float, comparison: Comparison, estimates: Mapping[str, Array], role: Role) -> Array:
    """One-sided lower bound of a role's mean, as far below the estimate as the comparison's own."""
    mean: Array = np.mean([estimates[name] for name in comparison.columns_of(role)], axis=0)
    return mean - of_role(comparison, role).spread.reach(confidence, -1)


def _detectable_gain(config: GateConfig, comparison: Comparison) -> float:
    """The minimal detectable effect at the confidence of one look."""
    spread = of_role(comparison, "reasoning").spread
    return detectable_effect(spread.error(config.look_confidence), config.look_confidence)


def _any_worse(comparison: Comparison, estimates: Mapping[str, Array]) -> Flags:
    """Whether Holm finds any perception column worse: its first step, the smallest p against α/m."""
    from scipy.special import ndtri

    names = comparison.columns_of("perception")
    z = ndtri(1 - (1 - comparison.confidence) / len(names))
    return np.any([estimates[name] < -z * comparison.columns[name].error for name in names], axis=0)

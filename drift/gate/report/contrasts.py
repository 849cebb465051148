"""Every model against every other, paired over the same questions: is DRIFT better than merge-then-SFT, say?

These intervals are of one comparison each. What the gate decided from is in its own table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from drift.evaluate.scores import ROLES, Role
from drift.gate.answers import match
from drift.gate.report.models import Model
from drift.gate.statistics import Comparison, Difference, compare_pairs


@dataclass(frozen=True)
class Contrast:
    """One model minus another, in points, with the two-sided interval."""

    points: float
    low: float
    high: float

    @property
    def told(self) -> str:
        """`better`, `worse`, or '' where the interval holds zero."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else ""

    def reversed(self) -> Contrast:
        """The other minus the one: the bounds are symmetric (`drift.gate.statistics`)."""
        return Contrast(0.0 - self.points, 0.0 - self.high, 0.0 - self.low)


Contrasts = Mapping[tuple[str, str], Mapping[str, Contrast]]
"""By (model, against): of each role's mean, and of each column."""


def contrasts(models: Sequence[Model]) -> Contrasts:
    """All ordered pairs of different models. Raises DataError where they did not answer the same questions."""
    found: dict[tuple[str, str], dict[str, Contrast]] = {}
    for other, one in combinations(models, 2):
        named = _named(_compared(one, other))
        found[one.name, other.name] = named
        found[other.name, one.name] = {key: contrast.reversed() for key, contrast in named.items()}
    return found


def _compared(one: Model, other: Model) -> Comparison:
    """Without the p values of single columns, which only the gate asks for."""
    answers = match(one.samples, other.samples, one.scores.benchmarks)
    pairs = {name: answer.pair() for name, answer in answers.items()}
    return compare_pairs(pairs, confidence=one.scores.confidence, resamples=1)


def _named(comparison: Comparison) -> dict[str, Contrast]:
    roles: dict[str, Difference] = {role: mean for role in ROLES if (mean := comparison.role(role)) is not None}
    return {name: _contrast(difference) for name, difference in [*roles.items(), *comparison.columns.items()]}


def _contrast(difference: Difference) -> Contrast:
    return Contrast(difference.points, difference.low, difference.high)


def in_words(found: Contrasts, candidate: str, role: Role) -> str:
    """The candidate against all others in one sentence; '' where nobody else was measured in the role."""
    against = {other: named[role] for (one, other), named in found.items() if one == candidate and role in named}
    groups = {
        "better than": [other for other, one in against.items() if one.told == "better"],
        "worse than": [other for other, one in against.items() if one.told == "worse"],
        "not to be told apart from": [other for other, one in against.items() if not one.told],
    }
    said = [f"{how} {', '.join(others)}" for how, others in groups.items() if others]
    return f"In {role}, {candidate} is {'; '.join(said)}." if said else ""

"""The gate's rules on paired differences, in points of percent: one check each. No files (`decision` reads them).

Bounds are one-sided at `gate.confidence` from the bootstrap over clusters (`statistics`). Better means that the
lower bound of the difference lies above what is asked for; kept means that it lies above minus the margin
(non-inferiority). Single perception columns are tested one by one, with Holm's correction over them.
"""

from __future__ import annotations

from dataclasses import dataclass

from drift.config.gate import GateConfig
from drift.evaluate.scores import Role, Scores
from drift.gate.statistics import Comparison, Difference
from drift.ground.errors import ConfigError, DataError

ROUNDING = 1e-9  # points


@dataclass(frozen=True)
class Check:
    """One condition: the measured value, its threshold, its interval where it has one."""

    name: str
    passed: bool
    value: float
    threshold: float
    low: float | None
    high: float | None
    detail: str


def against_baseline(config: GateConfig, comparison: Comparison) -> list[Check]:
    """Better at reasoning than the unmodified VLM, and perception kept.

    Raises DataError without benchmarks of a role, ConfigError for a margin that these benchmarks cannot resolve.
    """
    require_detectable(config, comparison)
    return [_gain(of_role(comparison, "reasoning"), config), *_perception(comparison, config, "")]


def against_champion(config: GateConfig, comparison: Comparison) -> list[Check]:
    """Not worse than the champion, by the same tests."""
    reasoning, margin = of_role(comparison, "reasoning"), config.max_reasoning_loss
    kept = _kept("champion_reasoning_loss", "Reasoning", reasoning, margin, config, " against the champion")
    return [kept, *_perception(comparison, config, "champion")]


def beats(name: str, comparison: Comparison) -> Check:
    """Reasoning above another arm's, by the point estimate."""
    difference = of_role(comparison, "reasoning")
    passed = difference.points > ROUNDING
    detail = f"Reasoning is {difference.points:+.1f} points from {name}'s; it must be above."
    return Check(f"beats_{name}", passed, difference.points, 0.0, difference.low, difference.high, detail)


def answered(config: GateConfig, scores: Scores) -> list[Check]:
    """Few questions that could not be asked, and few replies cut at `max_new_tokens`; shares in percent."""
    said = {"failed": "could not be asked", "truncated": "were cut at max_new_tokens"}
    limits = {"failed": config.max_failed, "truncated": config.max_truncated}
    return [_share(name, scores.count(name), scores.count("n"), limit, said[name]) for name, limit in limits.items()]


def require_detectable(config: GateConfig, comparison: Comparison) -> None:
    """Raise ConfigError for a `max_perception_loss` below the least loss that these benchmarks can tell from none.

    Not where perception fell by more than the margin for certain: that is a refusal.
    """
    perception, margin = of_role(comparison, "perception"), config.max_perception_loss
    if perception.detectable > margin and perception.upper >= -margin:
        raise ConfigError(
            f"gate.max_perception_loss: {margin:g} points is below the minimal detectable effect of perception on "
            f"these benchmarks, {perception.detectable:.2f} points; evaluate on more questions or widen the margin"
        )


def of_role(comparison: Comparison, role: Role) -> Difference:
    """The mean of a role. Raises DataError if no benchmark has it."""
    difference = comparison.role(role)
    if difference is None:
        raise DataError(
            f"{comparison.candidate} against {comparison.baseline}: no benchmark of role '{role}'; "
            "the gate needs both roles, evaluate one of each"
        )
    return difference


def significantly_worse(comparison: Comparison, role: Role) -> dict[str, tuple[float, bool]]:
    """Holm over the role's columns: adjusted one-sided p that the candidate is worse, and whether it is significant."""
    from statsmodels.stats.multitest import multipletests

    names = comparison.columns_of(role)
    p_values = [comparison.worse[name] for name in names]
    rejected, adjusted, *_ = multipletests(p_values, alpha=1 - comparison.confidence, method="holm")
    return {name: (float(p), bool(no)) for name, p, no in zip(names, adjusted, rejected, strict=True)}


def _gain(reasoning: Difference, config: GateConfig) -> Check:
    passed = reasoning.lower > config.min_reasoning_gain
    detail = (
        f"Reasoning {_moved(reasoning)}; with {config.confidence:.0%} confidence by at least {reasoning.lower:+.1f}, "
        f"{'above' if passed else 'not above'} the {config.min_reasoning_gain:.1f} asked for."
    )
    low, high = reasoning.low, reasoning.high
    return Check("reasoning_gain", passed, reasoning.points, config.min_reasoning_gain, low, high, detail)


def _perception(comparison: Comparison, config: GateConfig, to: str) -> list[Check]:
    """The mean is kept within the margin, and no single column is significantly worse."""
    prefix, suffix = (f"{to}_", f" against the {to}") if to else ("", "")
    mean, margin = of_role(comparison, "perception"), config.max_perception_loss
    kept = _kept(f"{prefix}perception_loss", "Perception", mean, margin, config, suffix)
    return [kept, _each(f"{prefix}perception_each", comparison, suffix)]


def _kept(name: str, what: str, difference: Difference, margin: float, config: GateConfig, suffix: str) -> Check:
    passed = difference.lower > -margin
    detail = (
        f"{what} {_moved(difference)}{suffix}; with {config.confidence:.0%} confidence the loss is below "
        f"{max(0.0, -difference.lower):.1f}, {'within' if passed else 'not within'} the {margin:.1f} allowed."
    )
    return Check(name, passed, 0.0 - difference.points, margin, -difference.high, -difference.low, detail)


def _each(name: str, comparison: Comparison, suffix: str) -> Check:
    tested = significantly_worse(comparison, "perception")
    lost = [column for column, (_, significant) in tested.items() if significant]
    nearest = min(tested, key=lambda column: tested[column][0])
    points, p = comparison.columns[nearest].points, tested[nearest][0]
    said = f"{', '.join(lost)} fell significantly" if lost else "No single perception benchmark fell significantly"
    detail = f"{said}{suffix} (nearest {nearest}: {points:+.1f} points, Holm-adjusted p = {p:.2g})."
    return Check(name, not lost, float(len(lost)), 0.0, None, None, detail)


def _share(name: str, count: int, of: int, limit: float, said: str) -> Check:
    share = count / of
    detail = f"{count} of {of} questions {said} ({share:.1%}); at most {limit:.1%} are allowed."
    return Check(name, share <= limit, 100 * share, 100 * limit, None, None, detail)


def _moved(difference: Difference) -> str:
    return f"{'rose' if difference.points >= 0 else 'fell'} by {abs(difference.points):.1f} points"

"""The gate's rules on paired differences, in points of percent: one check each. No files (`decision` reads them).

Bounds are one-sided at `gate.confidence` (`statistics`); the gain's at 1 − α/looks, so that α holds over all looks.
Better means that the lower bound of the difference lies above what is asked for; kept means that it lies above minus
the margin (non-inferiority). Single perception columns are tested one by one, with Holm's correction over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drift.config.gate import GateConfig
from drift.evaluate.scores import ROLES, Role
from drift.gate.answers import UNREAD, Replies
from drift.gate.resolution import remedy
from drift.gate.statistics import Comparison, Difference, detectable_effect
from drift.ground.errors import DataError

ROUNDING = 1e-9  # points

NOTHING_KNOWN = -100.0
"""The lower bound of a difference that no question was seen of."""

BEST = "best champion"


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
    """Enough questions; better at reasoning than the unmodified VLM, and perception kept, both also in what was read.

    Raises DataError without benchmarks of a role.
    """
    return [
        _enough(config, comparison),
        gain(comparison, config),
        _gain_in_form(comparison, config),
        *perception(comparison, config),
        _kept_in_form(comparison, config),
    ]


def against_champion(config: GateConfig, comparison: Comparison, to: str = "champion") -> list[Check]:
    """Not worse than the champion, by the same tests; ``to`` is `champion` or `BEST`."""
    return [no_worse(comparison, config, to), *perception(comparison, config, to)]


def no_worse(comparison: Comparison, config: GateConfig, to: str = "champion") -> Check:
    """Reasoning within the margin of a champion's."""
    reasoning, margin = of_role(comparison, "reasoning"), config.max_reasoning_loss
    name = f"{to.replace(' ', '_')}_reasoning_loss"
    return _kept(name, "Reasoning", reasoning, margin, config, f" against the {to}")


def is_champion(name: str, to: str = "champion") -> Check:
    """In place of `against_champion` where the two have the same contents."""
    check = f"{to.replace(' ', '_')}_reasoning_loss"
    return Check(check, True, 0.0, 0.0, None, None, f"{name} is the {to} itself: the same contents.")


def beats(name: str, comparison: Comparison) -> Check:
    """Reasoning above another arm's, by the point estimate."""
    difference = of_role(comparison, "reasoning")
    passed = difference.points > ROUNDING
    detail = f"Reasoning is {difference.points:+.1f} points from {name}'s; it must be above."
    return Check(f"beats_{name}", passed, difference.points, 0.0, difference.low, difference.high, detail)


def answered(config: GateConfig, sides: Mapping[str, Replies]) -> list[Check]:
    """Of every side few questions that could not be asked, few replies cut at `max_new_tokens` or without an answer
    that can be read; shares in percent. A cut baseline is no gain."""
    kinds = {
        "failed": ("Could not be asked", config.max_failed),
        "truncated": ("Cut at max_new_tokens", config.max_truncated),
        "unreadable": ("Held no readable answer", config.max_unreadable),
    }
    return [
        _share(kind, said, {name: getattr(one, kind) / one.n for name, one in sides.items()}, limit)
        for kind, (said, limit) in kinds.items()
    ]


def looked(config: GateConfig, number: int, where: str) -> Check:
    """Whether this look is one of those that the confidence was divided by; ``number`` counts from 1."""
    passed = number <= config.looks
    said = f"Look {number} of {config.looks} at these questions ({where})"
    detail = (
        f"{said}; each spends 1/{config.looks} of the {1 - config.confidence:.1%} chance of passing a model without a "
        "gain."
        if passed
        else f"{said}: the {1 - config.confidence:.1%} chance of passing a model without a gain is spent; evaluate on "
        "fresh questions, or set gate.looks higher and know that the chance is higher over all."
    )
    return Check("looks", passed, float(number), float(config.looks), None, None, detail)


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


def _enough(config: GateConfig, comparison: Comparison) -> Check:
    """Below some number of independent groups no bound is worth its confidence."""
    seen = {role: of_role(comparison, role).clusters for role in ROLES}
    least = config.min_clusters
    missing = [f"{least - n} more of {role} would be enough" for role, n in seen.items() if n < least]
    detail = (
        f"Reasoning rests on {seen['reasoning']} and perception on {seen['perception']} independent groups of "
        f"questions; at least {least} each are asked for{': ' if missing else ''}{' and '.join(missing)}."
    )
    return Check("clusters", not missing, float(min(seen.values())), float(least), None, None, detail)


def gain(comparison: Comparison, config: GateConfig) -> Check:
    """Better at reasoning, at the confidence of one look."""
    reasoning = of_role(comparison, "reasoning")
    lower = reasoning.lower_at(config.look_confidence)
    passed = lower > config.min_reasoning_gain
    detail = f"Reasoning {_moved(reasoning)}; {_at_least(lower, passed, config)}."
    if not passed and reasoning.points > config.min_reasoning_gain:
        least = detectable_effect(reasoning.spread.error(config.look_confidence), config.look_confidence)
        detail = f"{detail[:-1]}: the least that shows here is {least:.1f} more."
    low, high = reasoning.low, reasoning.high
    return Check("reasoning_gain", passed, reasoning.points, config.min_reasoning_gain, low, high, detail)


def _at_least(lower: float, passed: bool, config: GateConfig) -> str:
    over = f" over {config.looks} looks" if config.looks > 1 else ""
    return (
        f"with {config.confidence:.0%} confidence{over} by at least {lower:+.1f}, "
        f"{'above' if passed else 'not above'} the {config.min_reasoning_gain:.1f} asked for"
    )


def _gain_in_form(comparison: Comparison, config: GateConfig) -> Check:
    """The gain once more over the questions that both sides answered readably: a gain of form is none."""
    asked, confidence = config.min_reasoning_gain, config.look_confidence
    said, whole, common = _sides(comparison, "reasoning")
    name = "reasoning_form"
    if common is whole or whole.lower_at(confidence) <= asked:
        return Check(name, True, whole.points, asked, None, None, f"{said}: no gain of form.")
    if common is None:
        unknown = f"{said}, no question's by both: the gain may be one of form."
        return Check(name, asked < NOTHING_KNOWN, 0.0, asked, None, None, unknown)
    lower = common.lower_at(confidence)
    passed = lower > asked
    detail = (
        f"{said}; over the {common.n} that were read of both, reasoning {_moved(common)}, "
        f"{_at_least(lower, passed, config)}: {'no' if passed else 'a'} gain of form."
    )
    return Check(name, passed, common.points, asked, common.low, common.high, detail)


def _kept_in_form(comparison: Comparison, config: GateConfig) -> Check:
    """Perception once more over the questions that both sides answered readably: better form may hide a loss."""
    margin = config.max_perception_loss
    said, whole, common = _sides(comparison, "perception")
    name = "perception_form"
    if common is whole or whole.lower <= -margin:
        return Check(name, True, 0.0 - whole.points, margin, None, None, f"{said}: no loss hidden by form.")
    if common is None:
        unknown = f"{said}, no question's by both: form may hide a loss."
        return Check(name, -margin < NOTHING_KNOWN, 0.0, margin, None, None, unknown)
    what = f"{said}; over the {common.n} that were read of both, perception"
    return _kept(name, what, common, margin, config, "")


def _sides(comparison: Comparison, role: Role) -> tuple[str, Difference, Difference | None]:
    """What is said of both sides' forms, and Δ over all questions and over those that both answered readably; the same
    Δ where these are the same."""
    ours, theirs = (comparison.reads[side][role] for side in ("candidate", "baseline"))
    said = (
        f"{role.capitalize()} answers were read in {_read(ours):.1%} of {comparison.candidate}'s replies and "
        f"{_read(theirs):.1%} of {comparison.baseline}'s"
    )
    whole = of_role(comparison, role)
    common = comparison.common.role(role) if comparison.common else whole
    same = common is not None and (common.n, common.points) == (whole.n, whole.points)
    return said, whole, whole if same else common


def _read(reads: Mapping[str, int]) -> float:
    return 1 - reads.get(UNREAD, 0) / sum(reads.values())


def perception(comparison: Comparison, config: GateConfig, to: str = "") -> list[Check]:
    """The mean is kept within the margin, and no single column is significantly worse."""
    prefix, suffix = (f"{to.replace(' ', '_')}_", f" against the {to}") if to else ("", "")
    mean, margin = of_role(comparison, "perception"), config.max_perception_loss
    kept = _kept(f"{prefix}perception_loss", "Perception", mean, margin, config, suffix)
    return [kept, _each(f"{prefix}perception_each", comparison, suffix)]


def _kept(name: str, what: str, difference: Difference, margin: float, config: GateConfig, suffix: str) -> Check:
    passed = difference.lower > -margin
    detail = (
        f"{what} {_moved(difference)}{suffix}; with {config.confidence:.0%} confidence the loss is below "
        f"{max(0.0, -difference.lower):.1f}, {'within' if passed else 'not within'} the {margin:.1f} allowed"
    )
    if not passed and difference.upper >= -margin and difference.detectable > margin:
        detail += f": the least that shows here is {difference.detectable:.1f}; "
        detail += remedy(difference, margin, config.confidence)
    return Check(name, passed, 0.0 - difference.points, margin, -difference.high, -difference.low, f"{detail}.")


def _each(name: str, comparison: Comparison, suffix: str) -> Check:
    tested = significantly_worse(comparison, "perception")
    lost = [column for column, (_, significant) in tested.items() if significant]
    nearest = min(tested, key=lambda column: tested[column][0])
    points, p = comparison.columns[nearest].points, tested[nearest][0]
    said = f"{', '.join(lost)} fell significantly" if lost else "No single perception benchmark fell significantly"
    detail = f"{said}{suffix} (nearest {nearest}: {points:+.1f} points, Holm-adjusted p = {p:.2g})."
    return Check(name, not lost, float(len(lost)), 0.0, None, None, detail)


def _share(name: str, said: str, shares: Mapping[str, float], limit: float) -> Check:
    worst = max(shares.values())
    listed = ", ".join(f"{side} {share:.1%}" for side, share in shares.items())
    detail = f"{said}: {listed}; at most {limit:.1%} are allowed."
    return Check(name, worst <= limit, 100 * worst, 100 * limit, None, None, detail)


def _moved(difference: Difference) -> str:
    return f"{'rose' if difference.points >= 0 else 'fell'} by {abs(difference.points):.1f} points"

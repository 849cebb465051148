"""Whether a model that passed takes the alias `champion`, and why not: a tie is no reason to replace a champion.

`better` goes by point estimates: that the model is not worse than any champion by more than a margin is what the rules
have shown already. Without that help `not_worse` shows it against the best champion ever at the confidence of one look,
since of many models just below the margin some pass any single test.
"""

from __future__ import annotations

from dataclasses import dataclass

from drift.config.gate import GateConfig
from drift.gate.rules import ROUNDING, of_role
from drift.gate.statistics import Comparison


@dataclass(frozen=True)
class Succession:
    """What becomes of the alias where the gate passes."""

    promotes: bool
    alias: str
    """Why."""
    best_ever: bool
    """Whether its reasoning is above every champion's."""


def succession(
    config: GateConfig, passed: bool, reigning: Comparison | None, best: Comparison | None, *, itself: bool
) -> Succession:
    """``reigning``, ``best``: the candidate against the champions, as far as there are any; ``itself``: whether the
    candidate is the reigning one."""
    name = config.candidate
    if not passed:
        return Succession(False, f"{name} was refused; the alias champion stays where it is.", False)
    if reigning is None:
        return Succession(True, f"There is no champion yet; {name} becomes it.", True)
    if itself:
        return Succession(False, f"{name} is the reigning champion itself.", False)
    points = gained(reigning)
    above = points > ROUNDING
    best_ever = above and (best is None or gained(best) > ROUNDING)
    said = f"{name}'s reasoning is {points:+.1f} points from the reigning champion's"
    if best_ever or (above and config.champion == "better"):
        return Succession(True, f"{said}; it becomes champion.", best_ever)
    if config.champion == "better":
        return Succession(False, f"{said} and must be above to replace it (gate.champion: better).", False)
    lower, margin = of_role(best or reigning, "reasoning").lower_at(config.look_confidence), config.max_reasoning_loss
    bound = f"over {config.looks} looks at most {max(0.0, -lower):.1f} below the best champion's"
    if lower > -margin:
        return Succession(True, f"{said}, {bound}; it becomes champion (gate.champion: not_worse).", best_ever)
    return Succession(False, f"{said}, {bound}, not within the {margin:.1f} allowed.", False)


def gained(comparison: Comparison) -> float:
    """Points of reasoning, and no more than over the questions that both answered readably."""
    whole = of_role(comparison, "reasoning").points
    common = comparison.common and comparison.common.reasoning
    return min(whole, common.points) if common else whole

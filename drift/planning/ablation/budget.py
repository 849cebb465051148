"""What all cells of an ablation cost together, before anything is spent: what several cells share is counted once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drift.config.chain import Config
from drift.config.plan import arm_steps
from drift.planning.ablation.expansion import Ablation, Cell
from drift.planning.ablation.identity import (
    arm_content,
    data_content,
    identity_of,
    result_identities,
    teacher_content,
)
from drift.planning.costs import Assumptions, Models, Phase, Total, cost, total
from drift.planning.sizing import headers

EVALUATE, GENERATE = "evaluate", "generate"


@dataclass(frozen=True)
class CellCost:
    """What a cell adds to the cells before it."""

    cell: str
    arms: int
    trainings: int
    """New ones."""
    merges: int
    """New ones without a training."""
    evaluations: int
    """Models that no cell before has scored."""
    amounts: Mapping[str, Total]
    """Tokens, training_flop, hours, and gpu_hours: hours times the GPUs of the phase."""


@dataclass
class _Seen:
    """What the cells before have made: identities of teachers' work, of weights, of scores."""

    teachers: set[str]
    weights: set[str]
    scores: set[str]


def budget(
    ablation: Ablation,
    assumed: Assumptions,
    *,
    samples: int | None = None,
    gpus: Mapping[str, int] | None = None,
) -> list[CellCost]:
    """Of every cell, in the order in which they run. Raises what `drift.planning.costs.cost` raises."""
    seen = _Seen(set(), set(), set())
    by_models: dict[tuple[str, str], Models | None] = {}
    costs = []
    for cell in ablation.cells:
        key = (cell.config.models.vlm, cell.config.models.expert)
        if key not in by_models:
            by_models[key] = headers(cell.config.models, allow_pickle=cell.config.allow_pickle)
        phases = cost(cell.config, assumed, by_models[key], samples=samples, gpus=gpus)
        costs.append(_cell_cost(cell, phases, seen))
    return costs


def sums(costs: Sequence[CellCost]) -> CellCost:
    """All cells together."""
    counts = {name: sum(getattr(one, name) for one in costs) for name in ("arms", "trainings", "merges", "evaluations")}
    amounts = {name: _together([one.amounts[name] for one in costs]) for name in costs[0].amounts}
    return CellCost("all", **counts, amounts=amounts)


def _together(totals: Sequence[Total]) -> Total:
    return Total(math.fsum(one.known for one in totals), all(one.complete for one in totals))


def _cell_cost(cell: Cell, phases: Sequence[Phase], seen: _Seen) -> CellCost:
    config = cell.config
    weights, scores = weight_identities(config), result_identities(config)
    new = [name for name in config.arms if weights[name] not in seen.weights]
    asked = [name for name in scores if scores[name] not in seen.scores]
    teacher = identity_of(teacher_content(config))
    shares = {f"arm {name}": float(name in new) for name in config.arms}
    shares |= {GENERATE: float(teacher not in seen.teachers), EVALUATE: len(asked) / len(scores)}
    own = [_scaled(phase, shares[phase.phase]) for phase in phases]
    seen.teachers.add(teacher)
    seen.weights.update(weights.values())
    seen.scores.update(scores.values())
    trained = [name for name in new if config.arms[name].train is not None]
    counts = {"trainings": len(trained), "merges": len(new) - len(trained), "evaluations": len(asked)}
    return CellCost(cell.name, len(config.arms), **counts, amounts=total(own) | {"gpu_hours": _gpu_hours(own)})


def weight_identities(config: Config) -> dict[str, str]:
    """Of each arm's weights in any run: how they are made, and the data that a training saw."""
    return {
        step.name: identity_of([arm_content(config, step), data_content(config) if step.train else None])
        for step in arm_steps(config)
    }


def _scaled(phase: Phase, share: float) -> Phase:
    """The share of a phase that is not there yet; nothing at all is known to cost nothing."""

    def part(amount: float | None) -> float | None:
        return 0.0 if not share else None if amount is None else amount * share

    return replace(phase, tokens=part(phase.tokens), training_flop=part(phase.training_flop), hours=part(phase.hours))


def _gpu_hours(phases: Sequence[Phase]) -> Total:
    hours = [None if phase.hours is None else phase.hours * phase.gpus for phase in phases]
    return Total(math.fsum(one for one in hours if one is not None), None not in hours)

"""How the prior's strength α changes over a training: pure functions of the step, so that a resumed run is exact.

Symbols: α the configured strength, t the optimizer step (0 for the first), T the number of steps,
projection = ⟨φ_t − φ_VL, Δ⟩/‖Δ‖², 0 at the start and 1 at the expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from drift.config.train import ScheduleConfig
from drift.ground.errors import PriorError


def strength(
    schedule: ScheduleConfig, alpha: float, step: int, total_steps: int | None, projection: Callable[[], Tensor]
) -> float | Tensor:
    """α of one step: a float, or (kind `projection`, whose value lives on the device) a float32 scalar tensor.

    Every kind is multiplied by the warm-up. ``projection`` is called only where it is needed.
    """
    whole = alpha * warmup(schedule, step, total_steps)
    if schedule.kind == "projection" and alpha != 0:
        left = (schedule.target - projection()) / (schedule.target - schedule.start)
        return whole * left.clamp(0.0, 1.0).float()
    return whole * decay(schedule, step, total_steps)


def warmup(schedule: ScheduleConfig, step: int, total_steps: int | None) -> float:
    """Rises in a straight line to 1 over the first `warmup` share of the steps: (t + 1) / (warmup·T)."""
    if schedule.warmup == 0:
        return 1.0
    return min(1.0, (step + 1) / (schedule.warmup * _required(schedule, total_steps)))


def decay(schedule: ScheduleConfig, step: int, total_steps: int | None) -> float:
    """`linear`: 1 − x, `cosine`: (1 + cos πx)/2, with x = t/(end·T) up to 1; 1 for the other kinds."""
    if schedule.kind not in ("linear", "cosine"):
        return 1.0
    passed = min(1.0, step / (schedule.end * _required(schedule, total_steps)))
    return 1.0 - passed if schedule.kind == "linear" else (1.0 + math.cos(math.pi * passed)) / 2


def needs_total_steps(schedule: ScheduleConfig) -> bool:
    """Whether α depends on how many steps the training has."""
    return schedule.kind in ("linear", "cosine") or schedule.warmup > 0


def _required(schedule: ScheduleConfig, total_steps: int | None) -> int:
    if not total_steps:
        raise PriorError(
            f"prior.schedule: '{schedule.kind}' with warmup {schedule.warmup} needs the number of steps; "
            "give total_steps to bind"
        )
    return total_steps

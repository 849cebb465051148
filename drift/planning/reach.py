"""What each arm of a configuration will do, before a GPU is spent: from headers, and Δ's statistics or a sample of it.

Along Δ a training goes at most as far as its reach, Ση times ‖Δ‖₁ / ‖Δ‖₂² (`drift.training.safety.effect`). It is
a bound, not a forecast of where training ends: gradients that agree reach it, others stay below.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from drift.config.chain import Config
from drift.config.models import MergeConfig
from drift.config.train import TrainConfig
from drift.ground.errors import ConfigError, MissingCheckpointError
from drift.training.launch import processes_of
from drift.training.safety.effect import reach_per_rate, remark, steps_of, sum_of_rates
from drift.weights.delta.deltafile import load_delta
from drift.weights.merging.plan import plan_merge
from drift.weights.pairing import DeltaPlan, plan
from drift.weights.storage.streaming import chunks

logger = logging.getLogger(__name__)

SAMPLED_ELEMENTS = 1 << 15


@dataclass(frozen=True)
class ArmForecast:
    """One arm: what it does, its optimizer steps, Ση, how far it can go along its Δ, and what to make of that."""

    arm: str
    does: str
    steps: int = 0
    sum_of_rates: float = 0.0
    reach: float | None = None
    remark: str = ""


def forecast(
    config: Config, *, samples: int | None = None, deltas: Path | None = None, gpus: int | None = None
) -> list[ArmForecast]:
    """Every arm in the configuration's order; reads headers, and a few megabytes of a Δ that is not in `deltas`.

    `samples`: rows of the training set (default: what `curate` is asked to keep). `deltas`: a folder with one folder
    per named Δ. `gpus`: of the machine that trains; default: those torch sees here. Raises what a run would raise for
    models that do not fit together; of models that are not here only the reach is left out, with a warning.
    """
    arm = functools.partial(_arm, config, samples=samples, deltas=deltas, gpus=gpus)
    try:
        return [arm(name) for name in config.arms]
    except MissingCheckpointError as error:
        logger.warning("reach: not known (%s)", error)
        return [arm(name, headers=False) for name in config.arms]


def expected_rows(config: Config, samples: int | None = None) -> int:
    """Rows of the training set: ``samples``, else those that `curate` keeps, and its replay. Raises ConfigError."""
    keep, replay = config.curate.keep, config.curate.replay
    if samples:
        return samples
    if keep is None:
        raise ConfigError("curate.keep: null keeps all, so the number of steps is not known; give --samples")
    return round(keep / (1 - replay.fraction)) if replay else keep


def _arm(
    config: Config, name: str, *, samples: int | None, deltas: Path | None, gpus: int | None, headers: bool = True
) -> ArmForecast:
    arm, train = config.arms[name], config.arm_train(name)
    merge = _merge(config, arm.merge, headers) if arm.merge else ""
    if train is None:
        return ArmForecast(name, merge)
    does = f"{merge}, then " * bool(merge) + _training(train, arm.delta)
    steps = steps_of(train, expected_rows(config, samples), processes_of(train.processes, gpus))
    rates = sum_of_rates(train, steps)
    if arm.delta is None or not (headers or deltas):
        return ArmForecast(name, does, steps, rates)
    if train.lora is not None:
        _require_matrices(config, name, arm.delta, deltas)
    reach = rates * _ratio(config, arm.delta, deltas)
    return ArmForecast(name, does, steps, rates, reach, remark(reach, train))


def _training(train: TrainConfig, delta: str | None) -> str:
    """What an arm is called by its training."""
    along = f"DRIFT along '{delta}'" if delta else "SFT"
    if not train.distils:
        return along
    return "on-policy distillation" + (f", {along}" if delta else "")


def _merge(config: Config, merge: MergeConfig, headers: bool) -> str:
    if merge.method == "delta":
        return f"φ_VL + {merge.weights[1]:g} Δ '{merge.delta}'"
    if not headers:
        return merge.method
    models = config.models
    todo = plan_merge(merge, expert=models.expert, vlm=models.vlm, base=models.base)
    return f"{merge.method} of {len(todo.canonical)} tensors"


def _ratio(config: Config, delta: str, deltas: Path | None) -> float:
    """‖Δ‖₁ / ‖Δ‖₂² over all tensors of a Δ."""
    return reach_per_rate(load_delta(deltas / delta)) if deltas else sampled_ratio(_planned(config, delta))


def _planned(config: Config, delta: str) -> DeltaPlan:
    models = config.models
    return plan(config.deltas[delta], expert=models.expert, vlm=models.vlm, base=models.base)


def _require_matrices(config: Config, arm: str, delta: str, deltas: Path | None) -> None:
    """Raise ConfigError if LoRA is to be guided where it has no adapter: a layer's experts are one tensor of three
    dimensions."""
    sources = _planned(config, delta).sources if deltas is None else ()
    shapes = load_delta(deltas / delta).shapes if deltas else {source.name: source.shape for source in sources}
    for name, shape in shapes.items():
        if len(shape) > 2:
            raise ConfigError(
                f"arms.{arm}: lora adapts matrices, and '{name}' of Δ '{delta}' has the shape {list(shape)}; "
                f"set deltas.{delta}.modules to [attn], or train without lora"
            )


def sampled_ratio(todo: DeltaPlan) -> float:
    """‖Δ‖₁ / ‖Δ‖₂² from the first rows of every matrix; a ratio of means, so the size of the sample drops out.

    Of several experts the smallest ratio, of the one that moved furthest. Raises ConfigError if a sample is all 0.
    """
    return min(_pair_ratio(todo, place) for place in range(len(todo.pairs)))


def _pair_ratio(todo: DeltaPlan, place: int) -> float:
    pair, l1, squared = todo.pairs[place], 0.0, 0.0
    for source in todo.sources:
        expert, other = source.pairs[place]
        rows = (
            model.first_rows(name, SAMPLED_ELEMENTS) for model, name in ((pair.expert, expert), (pair.other, other))
        )
        for e, o in chunks(*rows):
            difference = e - o
            l1, squared = l1 + float(difference.abs().sum()), squared + float(difference @ difference)
    if not squared:
        raise ConfigError(f"{pair.expert.path} and {pair.other.path}: no difference in a sample of {todo.direction}")
    return l1 / squared

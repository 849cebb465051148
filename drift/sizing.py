"""How much memory a training takes per GPU, and how much disk a run: from a model's headers, before either is spent.

Mixed precision with Adam, 16 bytes a trained weight (Rajbhandari et al. 2020, section 3.1): 2 for the bfloat16 weight,
2 for its gradient, 12 for the float32 master and Adam's two moments. ZeRO cuts over N ranks the optimizer's 12 (stage
1), the gradients too (2), the weights too (3); frozen weights take 2 and have neither. Activations, the communication
buffers and Δ's shard come on top.
"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from drift.checkpoints import Checkpoint, pair_decoders, resolve
from drift.config import Config
from drift.errors import CheckpointError

logger = logging.getLogger(__name__)

WEIGHT, GRADIENT, OPTIMIZER = 2, 2, 12
RANKS = (1, 2, 4, 8)
CHECKPOINT_BYTES = 12
"""Of a weight in a checkpoint: float32 and Adam's two moments."""


@dataclass(frozen=True)
class Weights:
    """Numbers of weights: all of a model's, and those that training moves."""

    total: int
    trained: int


@dataclass(frozen=True)
class Memory:
    """Bytes per rank of one ZeRO stage, by the number of ranks."""

    stage: int
    bytes_per_rank: dict[int, int]


def per_rank(weights: Weights, stage: int, ranks: int) -> int:
    """Bytes of weights, gradients and optimizer on each of ``ranks`` GPUs."""
    cut = [ranks if stage >= first else 1 for first in (3, 2, 1)]
    parts = (WEIGHT * weights.total, GRADIENT * weights.trained, OPTIMIZER * weights.trained)
    return sum(math.ceil(part / among) for part, among in zip(parts, cut, strict=True))


def memory(weights: Weights) -> list[Memory]:
    """Every stage on 1 to 8 ranks."""
    return [Memory(stage, {ranks: per_rank(weights, stage, ranks) for ranks in RANKS}) for stage in range(4)]


def count(vlm: Checkpoint, expert: Checkpoint, *, freeze_vision: bool) -> Weights:
    """The weights of a model on disk; with a frozen vision tower the text decoder's and the head's are trained."""
    total = sum(map(math.prod, vlm.shapes.values()))
    decoder = sum(math.prod(vlm.shapes[own]) for own in pair_decoders(expert, vlm).values())
    return Weights(total, decoder if freeze_vision else total)


def memory_of(config: Config) -> list[Memory]:
    """Of the configuration's own VLM, trained in full; empty, with a warning, where its headers cannot be read."""
    try:
        vlm, expert = (Checkpoint(resolve(model)) for model in (config.models.vlm, config.models.expert))
    except CheckpointError as error:
        logger.warning("memory per GPU: not known (%s)", error)
        return []
    return memory(count(vlm, expert, freeze_vision=config.train.freeze_vision))


def disk_bytes(config: Config, vlm: Checkpoint) -> int:
    """What a run writes below `runs`, at most: a model per arm, Δs as large, and the checkpoints trainings keep."""
    from drift.fit import KEPT_CHECKPOINTS  # torch and transformers, which `drift plan` does not need for this

    size = sum(info.size_bytes for info in vlm.tensors.values())
    saving = [train for name in config.arms if (train := config.arm_train(name)) and train.save_steps]
    checkpoint = CHECKPOINT_BYTES * sum(map(math.prod, vlm.shapes.values()))
    return size * (len(config.arms) + len(config.deltas)) + (KEPT_CHECKPOINTS + 1) * checkpoint * len(saving)


def free_below(path: Path) -> tuple[Path, int]:
    """The path or its nearest parent that is there, and the bytes free on its disk."""
    place = next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())
    return place, shutil.disk_usage(place).free

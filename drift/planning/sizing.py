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

from drift.config.chain import Config
from drift.config.models import ModelsConfig
from drift.config.train import KEPT_CHECKPOINTS, LoraConfig
from drift.ground.errors import CheckpointError
from drift.training.safety.room import checkpoint_bytes
from drift.weights.naming.layout import module_of
from drift.weights.storage.checkpoints import Checkpoint, pair_decoders, resolve
from drift.weights.storage.mixture import AT_RUN_TIME, arranged, opened

logger = logging.getLogger(__name__)

WEIGHT, GRADIENT, OPTIMIZER = 2, 2, 12
RANKS = (1, 2, 4, 8)


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


def adapters(vlm: Checkpoint, expert: Checkpoint, lora: LoraConfig) -> int:
    """Weights of LoRA's adapters: rank · (rows + columns) of every matrix that gets one."""
    pairs = pair_decoders(expert, vlm).items()
    chosen = [own for name, own in pairs if module_of(name) in lora.modules and name.endswith(".weight")]
    return sum(lora.rank * sum(vlm.shapes[own]) for own in chosen)


def memory_of(config: Config, models: tuple[Checkpoint, Checkpoint] | None) -> list[Memory]:
    """Bytes per rank and ZeRO stage of training the configuration's own VLM in full: weights, gradients, optimizer.

    ``models``: φ_VL and the expert. Empty where they are None, since their `headers` cannot be read.
    """
    return memory(count(*models, freeze_vision=config.train.freeze_vision)) if models else []


def headers(models: ModelsConfig, *, allow_pickle: bool = False) -> tuple[Checkpoint, Checkpoint] | None:
    """The VLM and the expert; None, with a warning, where their headers cannot be read."""
    try:
        expert = opened(models.expert, allow_pickle=allow_pickle)
        return arranged(Checkpoint(resolve(models.vlm)), AT_RUN_TIME), expert
    except CheckpointError as error:
        logger.warning("memory per GPU, FLOPs and disk: not known (%s)", error)
        return None


def disk_bytes(config: Config, vlm: Checkpoint) -> int:
    """What a run writes below `runs`, at most: a model per arm, Δs as large, and the checkpoints trainings keep."""
    size = sum(info.size_bytes for info in vlm.tensors.values())
    trainings = [train for name in config.arms if (train := config.arm_train(name))]
    saving = [train for train in trainings if train.save_steps or train.keeps_best]
    weights = sum(map(math.prod, vlm.shapes.values()))
    checkpoint = checkpoint_bytes(weights, weights)
    return size * (len(config.arms) + len(config.deltas)) + (KEPT_CHECKPOINTS + 1) * checkpoint * len(saving)


def free_below(path: Path) -> tuple[Path, int]:
    """The path or its nearest parent that is there, and the bytes free on its disk."""
    place = next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())
    return place, shutil.disk_usage(place).free


@dataclass(frozen=True)
class Disk:
    """Bytes that a run writes below its folder `runs`, at most, and those free there; None: not known."""

    runs: str
    writes: int | None
    free: int

    def __str__(self) -> str:
        written = "?" if self.writes is None else f"{self.writes / 1e9:,.1f}"
        return f"{self.free / 1e9:,.1f} GB free below {self.runs}; the run writes about {written} GB"


def disk_of(config: Config, vlm: Checkpoint | None) -> Disk:
    """Bytes that a run writes and finds free; ``vlm`` is φ_VL, None where its headers cannot be read."""
    writes = disk_bytes(config, vlm) if vlm else None
    return Disk(config.runs, writes, free_below(Path(config.runs))[1])

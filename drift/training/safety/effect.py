"""Whether a training can matter, said before it, and whether it did, said after it.

η the learning rate, Ση its sum over the steps: Adam moves no weight by much more than η in a step, so along Δ a
training goes at most as far as reach = Ση · ‖Δ‖₁ / ‖Δ‖₂² (a projection: 0 at φ_VL, 1 at the expert), and no weight
changes in its file unless Ση takes it to the next value of the file's dtype.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from drift.config.train import TrainConfig
from drift.ground.progress import shown
from drift.weights.delta.deltafile import DeltaFile
from drift.weights.storage.adapters import Adapted, open_model
from drift.weights.storage.checkpoints import Checkpoint
from drift.weights.storage.headers import DTYPE_NAMES
from drift.weights.storage.mixture import AT_RUN_TIME, arranged

logger = logging.getLogger(__name__)

TOO_SHORT = 0.05
"""Below this reach the weights stay at φ_VL whatever α is."""
TOO_FAR = 1.2
"""Above this reach a constant α can take the weights past the expert, where both skills break."""
UNMOVED = 1e-3
"""Below this projection a training along Δ has not left φ_VL."""
FEW = 0.01
SAMPLED_ELEMENTS = 1 << 12
"""Of each matrix, to see what can change in a file."""


def steps_of(train: TrainConfig, rows: int, ranks: int) -> int:
    """Optimizer steps of a training over so many rows."""
    a_step = train.per_device_batch_size * train.gradient_accumulation * ranks
    return math.ceil(train.epochs * math.ceil(rows / a_step))


def sum_of_rates(train: TrainConfig, steps: int) -> float:
    """Ση over the steps: the warm-up's triangle, then η for a constant schedule, η/2 on average for a falling one."""
    warmup = 0.0 if train.lr_scheduler == "constant" else train.warmup_ratio * steps
    share = 1.0 if train.lr_scheduler.startswith("constant") else 0.5
    return train.learning_rate * (0.5 * warmup + share * (steps - warmup))


def remark(reach: float, train: TrainConfig) -> str:
    """What a reach means for an arm with a prior."""
    if reach < TOO_SHORT:
        return f"α cannot matter at this learning rate: Adam reaches at most {reach:.2g} of Δ"
    constant = train.prior is not None and train.prior.schedule.kind == "constant"
    if reach > TOO_FAR and constant:
        return f"may overshoot: Adam can reach {reach:.2g} of Δ; set train.prior.schedule.kind=projection"
    return f"Adam can reach {reach:.2g} of Δ"


def reach_per_rate(prior: DeltaFile) -> float:
    """‖Δ‖₁ / ‖Δ‖₂² over all tensors of a stored Δ."""
    return math.fsum(entry["l1"] for entry in prior.stats.values()) / prior.squared_l2


def foretell(train: TrainConfig, model: Path, prior: DeltaFile | None, *, rows: int, ranks: int) -> list[str]:
    """Why a training cannot matter, a sentence each; none where it can.

    ``rows`` of the training set. Under LoRA the factors are trained, of whose product Ση is no bound.
    """
    if train.lora is not None:
        return []
    found: list[str] = []
    rates = sum_of_rates(train, steps_of(train, rows, ranks))
    if prior is not None and (reach := rates * reach_per_rate(prior)) < TOO_SHORT:
        found.append(remark(reach, train))
    if (share := storable(Checkpoint(model), rates)) < FEW:
        found.append(
            f"at most {share:.2%} of the weights can be stored with another value: all steps together go {rates:.2g}, "
            "less than lies between two values of the file's dtype; raise train.learning_rate"
        )
    return found


def storable(checkpoint: Checkpoint, rates: float) -> float:
    """The share of a sample of a checkpoint's matrices that has another stored value after a move by ``rates``."""
    matrices = [n for n, info in checkpoint.tensors.items() if len(info.shape) > 1 and info.dtype in DTYPE_NAMES]
    counts = [torch.tensor([0, 0])]
    for name in matrices:
        moves = _moves(checkpoint.first_rows(name, SAMPLED_ELEMENTS), rates)
        counts.append(torch.tensor([int(moves.sum()), moves.numel()]))
    moved, looked_at = torch.stack(counts).sum(dim=0).tolist()
    return moved / looked_at if looked_at else 1.0


def _moves(weights: Tensor, rates: float) -> Tensor:
    """Where w ± Ση, rounded to the dtype of w, is not w."""
    exact = weights.double()
    up, down = (exact + rates).to(weights.dtype), (exact - rates).to(weights.dtype)
    return (up != weights) | (down != weights)


def told(sentences: list[str]) -> list[str]:
    """The same sentences, as warnings in the log."""
    for sentence in sentences:
        logger.warning("train: %s", sentence)
    return sentences


def weights_changed(source: Path, out: Path, trained: int) -> float:
    """The share of the ``trained`` elements whose stored value is another than in ``source``.

    Of an adapter, whose share of a weight is not stored with it, those that it moves at all.
    """
    before, after = Checkpoint(source), open_model(str(out))
    if not isinstance(after, Adapted):
        before, after = (arranged(model, AT_RUN_TIME) for model in (before, after))
    names = [name for name, shape in before.shapes.items() if after.shapes.get(name) == shape]
    changed = sum(
        int((before.tensor(name) != after.tensor(name)).sum())
        for name in shown(names, "compare", len(names), unit="tensor")
    )
    return changed / trained


def look_back(changed: float, trained: int, history: Sequence[Mapping[str, float]]) -> list[str]:
    """Why a training did not matter, a sentence each: the file is as before, or the prior moved nothing along Δ."""
    found = []
    if changed < FEW:
        found.append(
            f"{round(changed * trained)} of {trained} trained weights are stored with another value than before: "
            "the learning rate is too small for the file's dtype"
        )
    projection = history[-1].get("projection") if history else None
    if projection is not None and abs(projection) < UNMOVED:
        found.append(f"the weights have not left φ_VL along Δ (projection {projection:.2g}); raise train.learning_rate")
    return found

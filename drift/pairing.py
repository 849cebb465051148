"""Which tensor of the expert belongs to which tensor of the other checkpoints, and whether they share a base.

φ_reason: the text expert. φ_VL: the text decoder of the multimodal model. φ_other: what Δ is taken from. Plans are
made from headers alone; the check for a common base reads a sample of the projections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from drift.checkpoints import Checkpoint, pair_decoders, resolve
from drift.config import DeltaConfig
from drift.errors import CheckpointError, ConfigError
from drift.layout import config_differences, explain_missing, layer_index, module_of, select_modules
from drift.streaming import DTYPES, cosine

SAME_BASE_COSINE = 0.1
"""Below this mean cosine of the projections, two models are no fine-tunes of one base (unrelated ones: 0.001)."""
ALIKE_COSINE = 0.5
SAMPLED_TENSORS, SAMPLED_ELEMENTS = 24, 1 << 17


@dataclass(frozen=True)
class Source:
    """One tensor of Δ before it is read: its canonical name, and its name in each of the three checkpoints."""

    name: str
    expert: str
    other: str
    vlm: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Bytes this tensor takes in the Δ file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class DeltaPlan:
    """What `compute_delta` will do, known from the headers: which tensors of which models, and what looks odd."""

    expert: Checkpoint
    other: Checkpoint
    vlm: Checkpoint
    direction: str
    sources: tuple[Source, ...]
    warnings: tuple[str, ...]

    @property
    def compared(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that must share the expert's base."""
        return (self.vlm,) if self.other is self.vlm else (self.other, self.vlm)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors of Δ."""
        return sum(source.size_bytes for source in self.sources)


def plan(config: DeltaConfig, *, expert: str, vlm: str, base: str | None) -> DeltaPlan:
    """Pair the tensors of the checkpoints by their headers; no tensor is read.

    Raises CheckpointError if the models do not fit together, ConfigError if the selection is empty.
    """
    reason, visual = Checkpoint(resolve(expert)), Checkpoint(resolve(vlm))
    other = visual if config.minus == "vlm" else Checkpoint(resolve(_minus(config, base)))
    in_vlm = pair_decoders(reason, visual)
    in_other = in_vlm if other is visual else pair_decoders(reason, other)
    own = reason.canonical()
    selected = select_modules(list(own), config.modules, config.layers, config.include_bias)
    sources = tuple(
        _source(name, (reason, own), (other, in_other), (visual, in_vlm))
        for name in sorted(selected, key=_reading_order)
    )
    direction = f"expert-minus-{config.minus if config.minus in ('vlm', 'base') else 'other'}"
    differing = config_differences(reason.text_config, other.text_config)
    warnings = tuple(f"the expert's configuration differs in {difference}" for difference in differing)
    return DeltaPlan(reason, other, visual, direction, sources, warnings)


def check_same_base(expert: Checkpoint, others: Sequence[Checkpoint], *, force: bool) -> list[str]:
    """Warnings about models whose projections are not much like the expert's, from a sample of their weights.

    Raises CheckpointError where they look unrelated, unless `force`.
    """
    warnings = []
    for other in others:
        mean = sampled_cosine(expert, other)
        if mean < SAME_BASE_COSINE and not force:
            raise CheckpointError(
                f"{expert.path} and {other.path}: mean cosine of the projections {mean:.3f}, below "
                f"{SAME_BASE_COSINE}: not fine-tunes of one base (force: true goes on)"
            )
        if mean < ALIKE_COSINE:
            warnings.append(f"mean cosine of the projections with {other.path} is only {mean:.3f}")
    return warnings


def sampled_cosine(expert: Checkpoint, other: Checkpoint) -> float:
    """Mean cosine of a sample of the attention and MLP projections of two text decoders.

    Only matrices: norms and biases look alike in any two models.
    """
    own, partners = expert.canonical(), pair_decoders(expert, other)
    matrices = [name for name in partners if module_of(name) in ("attn", "mlp") and len(expert.shapes[own[name]]) > 1]
    sample = matrices[:: max(1, len(matrices) // SAMPLED_TENSORS)]
    if not sample:
        return 1.0
    pairs = [(expert, own), (other, partners)]
    rows = [[model.first_rows(names[name], SAMPLED_ELEMENTS) for model, names in pairs] for name in sample]
    return sum(cosine(a, b) for a, b in rows) / len(rows)


def _minus(config: DeltaConfig, base: str | None) -> str:
    if config.minus == "base" and base is None:
        raise ConfigError("minus: 'base' needs models.base (--base), which is not set")
    return str(base) if config.minus == "base" else config.minus


def _source(name: str, *models: tuple[Checkpoint, Mapping[str, str]]) -> Source:
    """Find one tensor in expert, other and vlm."""
    (expert, own), *_ = models
    shape = expert.shapes[own[name]]
    for checkpoint, names in models:
        if name not in names:
            raise CheckpointError(f"{checkpoint.path}: '{name}': {explain_missing(name, shape, checkpoint.shapes)}")
        checkpoint.require_float(names[name])
    dtypes = [DTYPES[checkpoint.tensors[names[name]].dtype] for checkpoint, names in models[:2]]
    in_expert, in_other, in_vlm = (names[name] for _, names in models)
    return Source(name, in_expert, in_other, in_vlm, shape, torch.promote_types(*dtypes))


def _reading_order(name: str) -> tuple[int, str]:
    layer = layer_index(name)
    return (-1 if layer is None else layer, name)

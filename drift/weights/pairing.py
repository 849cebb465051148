"""Which tensor of the expert belongs to which tensor of the other checkpoints, and whether they share a base.

φ_reason: the text expert. φ_VL: the text decoder of the multimodal model. φ_other: what Δ is taken from. Plans are
made from headers alone; the check for a common base reads a sample of the projections.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from drift.config.models import DeltaConfig, parse_layers
from drift.ground.errors import CheckpointError, ConfigError
from drift.weights.checkpoints import Checkpoint, pair_decoders, recorded_vlm_sha256
from drift.weights.layout import (
    config_differences,
    explain_missing,
    find_partners,
    is_selected,
    layer_index,
    module_of,
    select_modules,
    unpaired,
)
from drift.weights.mixture import opened
from drift.weights.modeling import parameter_shapes
from drift.weights.streaming import DTYPES, cosine

SAME_BASE_COSINE = 0.1
"""Below this mean cosine of the projections, two models are no fine-tunes of one base (unrelated ones: 0.001)."""
ALIKE_COSINE = 0.5
SAMPLED_TENSORS, SAMPLED_ELEMENTS = 24, 1 << 17


@dataclass(frozen=True)
class Pair:
    """One expert, what is subtracted from it, its share of Δ's direction, and the names in both by canonical name."""

    expert: Checkpoint
    other: Checkpoint
    weight: float
    in_expert: Mapping[str, str]
    in_other: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """One tensor of Δ before it is read: its canonical name, its name in the two checkpoints of each pair, in φ_VL."""

    name: str
    pairs: tuple[tuple[str, str], ...]
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

    config: DeltaConfig
    pairs: tuple[Pair, ...]
    vlm: Checkpoint
    sources: tuple[Source, ...]
    warnings: tuple[str, ...]

    @property
    def direction(self) -> str:
        """`expert-minus-vlm` and the like, as it stands in Δ's files."""
        (minus, *more) = {minus if minus in ("vlm", "base") else "other" for _, minus, _ in self.config.pairs}
        shuffled = "" if self.config.shuffle is None else "-shuffled"
        return f"{'experts' if self.config.experts else 'expert'}-minus-{'several' if more else minus}{shuffled}"

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Every model that is read, once."""
        return list(dict.fromkeys([self.vlm, *(model for pair in self.pairs for model in (pair.expert, pair.other))]))

    @property
    def read_bytes(self) -> int:
        """Bytes of the tensors that are read."""
        read = {(self.vlm, source.vlm) for source in self.sources}
        for place, pair in enumerate(self.pairs):
            for expert, other in (source.pairs[place] for source in self.sources):
                read |= {(pair.expert, expert), (pair.other, other)}
        return sum(model.tensors[name].size_bytes for model, name in read)

    def summary(self) -> dict[str, Any]:
        """What a dry run shows: counts, bytes, models, every pair of names, what is left out, warnings."""
        selected = {source.name for source in self.sources}
        return {
            "direction": self.direction,
            "tensors": len(self.sources),
            "read_bytes": self.read_bytes,
            "write_bytes": self.size_bytes,
            "models": [str(model.path) for model in self.checkpoints],
            "not_selected": [name for name in self.pairs[0].in_expert if name not in selected],
            "warnings": list(self.warnings),
            "pairs": [
                {"name": source.name, "pairs": source.pairs, "vlm": source.vlm, "shape": source.shape}
                for source in self.sources
            ],
        }

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors of Δ."""
        return sum(source.size_bytes for source in self.sources)


def plan(config: DeltaConfig, *, expert: str, vlm: str, base: str | None) -> DeltaPlan:
    """Pair the tensors of the checkpoints by their headers; no tensor is read.

    Raises CheckpointError if the models do not fit together or (without `force`) φ_VL was itself made from another
    one here, ConfigError if the selection is empty.
    """
    checkpoint = functools.cache(opened)
    pairs = tuple(
        _pair(checkpoint(own or expert), checkpoint(_subtracted(minus, vlm, base)), weight)
        for own, minus, weight in config.pairs
    )
    visual: Checkpoint = checkpoint(vlm)
    _require_original(visual, config.force)
    partners = [pair_decoders(pair.expert, visual) for pair in pairs]
    selected = select_modules(list(pairs[0].in_expert), config.modules, config.layers, config.include_bias)
    sources = tuple(_source(name, pairs, (visual, partners[0])) for name in sorted(selected, key=_reading_order))
    _require_whole(config, visual, partners)
    differing = (config_differences(pair.expert.text_config, pair.other.text_config) for pair in pairs)
    warnings = dict.fromkeys(f"the expert's configuration differs in {one}" for some in differing for one in some)
    warnings |= dict.fromkeys(_require_bindable(visual, sources))
    return DeltaPlan(config, pairs, visual, sources, tuple(warnings))


def check_same_base(expert: Checkpoint, others: Iterable[Checkpoint], *, force: bool) -> list[str]:
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


def _require_original(vlm: Checkpoint, force: bool) -> None:
    """Projection and retention count from φ_VL: over several cycles an overshoot would add up unseen."""
    if not force and recorded_vlm_sha256(vlm.path):
        raise CheckpointError(
            f"{vlm.path}: trained or merged from another φ_VL; name that one as the VLM, and let training start from "
            "this (models.start); force: true goes on"
        )


def _require_whole(config: DeltaConfig, vlm: Checkpoint, partners: Sequence[Mapping[str, str]]) -> None:
    """Raise CheckpointError if the selection names a tensor of the VLM's decoder that an expert does not have."""
    layers = None if config.layers is None else parse_layers(config.layers)
    for in_vlm in partners:
        for name, own in unpaired(vlm.tensors, in_vlm).items():
            wanted = any(is_selected(name, module, config.include_bias) for module in config.modules)
            if wanted and (layers is None or layer_index(name) in layers):
                raise CheckpointError(f"{vlm.path}: '{own}' has no partner in the expert: Δ would be partial")


def _require_bindable(vlm: Checkpoint, sources: Sequence[Source]) -> list[str]:
    """Raise CheckpointError if a Δ of experts would find no parameter in the running model; a warning if none knows.

    Only experts are laid out differently there, and only they are worth the time to ask transformers.
    """
    shapes = {source.name: source.shape for source in sources}
    if not any(".experts." in name for name in shapes):
        return []
    at_run_time = parameter_shapes(vlm.path)
    if at_run_time is None:
        return [f"{vlm.path}: unknown to transformers; whether Δ fits its experts at run time is seen in training"]
    partners = find_partners(at_run_time, shapes)
    for name, shape in shapes.items():
        if name not in partners:
            why = explain_missing(name, shape, at_run_time)
            raise CheckpointError(f"{vlm.path}: '{name}' cannot be guided: at run time {why}")
    return []


def _subtracted(minus: str, vlm: str, base: str | None) -> str:
    """The checkpoint that `vlm` or `base` names; any other name is a checkpoint itself."""
    if minus == "base" and base is None:
        raise ConfigError("minus: 'base' needs models.base (--base), which is not set")
    return {"vlm": vlm, "base": str(base)}.get(minus, minus)


def _pair(expert: Checkpoint, other: Checkpoint, weight: float) -> Pair:
    return Pair(expert, other, weight, expert.canonical(), pair_decoders(expert, other))


def _source(name: str, pairs: Sequence[Pair], vlm: tuple[Checkpoint, Mapping[str, str]]) -> Source:
    """Find one tensor in φ_VL, and in expert and other of every pair."""
    first = pairs[0]
    shape = first.expert.shapes[first.in_expert[name]]
    models = [model for pair in pairs for model in ((pair.expert, pair.in_expert), (pair.other, pair.in_other))]
    for checkpoint, names in (*models, vlm):
        if name not in names:
            raise CheckpointError(f"{checkpoint.path}: '{name}': {explain_missing(name, shape, checkpoint.shapes)}")
        checkpoint.require_float(names[name])
    dtypes = [DTYPES[checkpoint.tensors[names[name]].dtype] for checkpoint, names in models]
    in_pairs = tuple((pair.in_expert[name], pair.in_other[name]) for pair in pairs)
    return Source(name, in_pairs, vlm[1][name], shape, functools.reduce(torch.promote_types, dtypes))


def _reading_order(name: str) -> tuple[int, str]:
    layer = layer_index(name)
    return (-1 if layer is None else layer, name)

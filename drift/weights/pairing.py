"""Which tensor of the expert belongs to which tensor of the other checkpoints, and whether they share a base.

φ_reason: the text expert. φ_VL: the text decoder of the multimodal model. φ_other: what Δ is taken from. Plans are
made from headers alone; the check for a common base reads a sample of the projections.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drift.config.models import DeltaConfig, parse_layers
from drift.ground.errors import CheckpointError, ConfigError
from drift.weights.modeling import parameter_shapes
from drift.weights.naming.configurations import config_differences, is_multimodal
from drift.weights.naming.decoder import has_other_parts
from drift.weights.naming.layout import (
    equal_decoders,
    explain_missing,
    find_partners,
    is_ordinary,
    is_selected,
    kinds_in_layers,
    layer_index,
    layers_without,
    module_of,
    select_modules,
    unpaired,
)
from drift.weights.storage import forms
from drift.weights.storage.adapters import Adapted
from drift.weights.storage.checkpoints import Checkpoint, pair_decoders, recorded_vlm_sha256, resolve
from drift.weights.storage.mixture import AT_RUN_TIME, arranged, opened
from drift.weights.storage.streaming import (
    DTYPES,
    PIECE_ELEMENTS,
    Sparsity,
    cosine,
    mean_sparsity,
    of_length,
    sparsity,
)
from drift.weights.vocabulary import check_tokens, tokenizer_folder

SAME_BASE_COSINE = 0.1
"""Below this mean cosine of the projections, two models are no fine-tunes of one base (unrelated ones: 0.001)."""
ALIKE_COSINE = 0.5
SPARSE = 0.5
"""Above this share of exact zeros a task vector is called sparse: of RL 0.7 to 0.95 is known, of SFT up to 0.15."""
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
    """φ_VL's."""
    common: int
    """Leading elements that all models have: all but in embeddings and head of vocabularies of different size."""
    dtype: torch.dtype
    parts: forms.Layout

    @property
    def size_bytes(self) -> int:
        """Bytes this tensor takes in the Δ file."""
        return sum(math.prod(shape) * dtype.itemsize for dtype, shape in self.parts.values())


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
        read = [self.vlm, *(model for pair in self.pairs for model in (pair.expert, pair.other))]
        return list(dict.fromkeys([*read, *(model.base for model in read if isinstance(model, Adapted))]))

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

    Raises CheckpointError if the models do not fit together or (without `force`) φ_VL is a text model or was itself
    made from another one here, ConfigError if the selection is empty.
    """
    visual: Checkpoint = arranged(Checkpoint(resolve(vlm)), AT_RUN_TIME)
    pickle = config.allow_pickle
    checkpoint = functools.cache(lambda one: visual if one == vlm else opened(one, allow_pickle=pickle))
    pairs = tuple(
        _pair(checkpoint(own or expert), checkpoint(_subtracted(minus, vlm, base)), weight)
        for own, minus, weight in config.pairs
    )
    _require_original(visual, config.force)
    require_multimodal(visual, force=config.force)
    partners = [pair_decoders(pair.expert, visual) for pair in pairs]
    selected = select_modules(list(pairs[0].in_expert), config.modules, config.layers, config.include_bias)
    order = sorted(selected, key=_reading_order)
    sources = tuple(_source(config, name, pairs, (visual, partners[0])) for name in order)
    if config.rank and not any(forms.LEFT in source.parts for source in sources):
        raise ConfigError(f"rank: {config.rank} makes no tensor of Δ smaller; give a lower one, or null for all of Δ")
    _require_whole(config, visual, partners)
    warnings = what_is_odd([(pair.expert, pair.other) for pair in pairs], visual)
    warnings += layers_without(list(pairs[0].in_expert), config.modules, config.layers)
    warnings += [line for pair, in_vlm in zip(pairs, partners, strict=True) for line in _unshared(pair, visual, in_vlm)]
    _require_told_apart(visual, sources)
    warnings += _other_rows(pairs, visual, sources, force=config.force)
    warnings += _require_bindable(visual, sources)
    return DeltaPlan(config, pairs, visual, sources, tuple(dict.fromkeys(warnings)))


def require_multimodal(vlm: Checkpoint, *, force: bool) -> None:
    """Raise CheckpointError, unless `force`, if what is given as φ_VL is a text decoder and nothing else."""
    if not force and not has_other_parts(vlm.shapes, vlm.config):
        raise CheckpointError(
            f"{vlm.path}: given as the VLM, but a text model: no other part, no vision in its config.json; are expert "
            "and VLM swapped? (force: true goes on)"
        )


def what_is_odd(pairs: Iterable[tuple[Checkpoint, Checkpoint]], vlm: Checkpoint) -> list[str]:
    """Warnings about experts, each with another model, and φ_VL, from their headers and configurations."""
    pairs = list(pairs)
    models = dict.fromkeys([vlm, *(model for pair in pairs for model in pair)])
    odd = [warning for model in models for warning in model.warnings]
    seeing = dict.fromkeys(expert for expert, _ in pairs if is_multimodal(expert.config))
    odd += [f"{expert.path}: a multimodal model as expert; its text decoder alone is taken" for expert in seeing]
    for expert, other in pairs:
        differing = config_differences(expert.text_config, other.text_config)
        odd += [f"the expert's configuration differs in {one}" for one in differing]
    return odd


def _unshared(pair: Pair, vlm: Checkpoint, in_vlm: Mapping[str, str]) -> list[str]:
    """What the layers of one of the two decoders have alone, and Δ does not."""
    alone = [(pair.expert, pair.in_expert.keys() - in_vlm.keys()), (vlm, unpaired(vlm.shapes, in_vlm).keys())]
    kinds = [(model, kinds_in_layers(names)) for model, names in alone]
    return [f"{model.path} alone has {', '.join(some)}: not in Δ" for model, some in kinds if some]


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


def require_different(todo: DeltaPlan) -> None:
    """Raise CheckpointError if an expert is what is subtracted from it; stops reading at the first difference."""
    for place, pair in enumerate(todo.pairs):
        if all(_is_same(pair, *source.pairs[place], source.common) for source in todo.sources):
            raise CheckpointError(
                f"{pair.expert.path} and {pair.other.path} are identical in {todo.config.modules}: Δ = 0"
            )


def _is_same(pair: Pair, expert: str, other: str, common: int) -> bool:
    """Whether a tensor of the expert is what is subtracted from it, as far as both have it."""
    read = (pair.expert.pieces(expert, PIECE_ELEMENTS), pair.other.pieces(other, PIECE_ELEMENTS))
    stretches = (of_length(stream, PIECE_ELEMENTS, common) for stream in read)
    return all(torch.equal(*both) for both in zip(*stretches, strict=True))


def sampled_cosine(expert: Checkpoint, other: Checkpoint) -> float:
    """Mean cosine of a sample of the attention and MLP projections of two text decoders."""
    rows = list(_sampled(expert, other))
    return sum(cosine(a, b) for a, b in rows) / len(rows) if rows else 1.0


def sampled_sparsity(expert: Checkpoint, other: Checkpoint) -> Sparsity:
    """`sparsity` of a sample of the difference of two text decoders' attention and MLP projections."""
    found = [(sparsity(a.float() - b.float()), a.numel()) for a, b in _sampled(expert, other)]
    return mean_sparsity(found)


def sparse_warnings(pairs: Iterable[tuple[Checkpoint, Checkpoint]]) -> list[str]:
    """A warning for each expert whose difference from another model is mostly zeros, from a sample."""
    found = [(expert, other, sampled_sparsity(expert, other).zeros) for expert, other in pairs]
    return [
        f"{expert.path} is sparse: {zeros:.0%} of its difference from {other.path} is exactly 0, as reinforcement "
        "learning leaves it; such an expert merges badly, and its Δ moves few weights"
        for expert, other, zeros in found
        if zeros > SPARSE
    ]


def _sampled(expert: Checkpoint, other: Checkpoint) -> Iterator[tuple[Tensor, Tensor]]:
    """The first rows of some attention and MLP projections of two text decoders.

    Only matrices: norms and biases look alike in any two models.
    """
    own, partners = expert.canonical(), pair_decoders(expert, other)
    matrices = [name for name in partners if module_of(name) in ("attn", "mlp") and len(expert.shapes[own[name]]) > 1]
    for name in matrices[:: max(1, len(matrices) // SAMPLED_TENSORS)]:
        yield expert.first_rows(own[name], SAMPLED_ELEMENTS), other.first_rows(partners[name], SAMPLED_ELEMENTS)


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
        for name, own in unpaired(vlm.shapes, in_vlm).items():
            wanted = any(is_selected(name, module, config.include_bias) for module in config.modules)
            if wanted and (layers is None or layer_index(name) in layers):
                raise CheckpointError(f"{vlm.path}: '{own}' has no partner in the expert: Δ would be partial")


def _require_told_apart(vlm: Checkpoint, sources: Sequence[Source]) -> None:
    """Raise CheckpointError if two decoders of φ_VL fit the selection equally well: training would know neither."""
    if equal := equal_decoders(vlm.shapes, {source.name: source.shape for source in sources}):
        raise CheckpointError(
            f"{vlm.path}: text decoders at {' and '.join(map(repr, equal))} fit Δ equally well, so that training would "
            "take none; add a module that one of them does not have (embed)"
        )


def _other_rows(pairs: Sequence[Pair], vlm: Checkpoint, sources: Sequence[Source], *, force: bool) -> list[str]:
    """Warnings about selected embeddings and heads: the rows that not all models have, and their tokens.

    Raises CheckpointError as `check_tokens`.
    """
    found = []
    for source in (source for source in sources if module_of(source.name) in ("embed", "head")):
        rows = {vlm: source.shape[0]}
        for pair, (expert, other) in zip(pairs, source.pairs, strict=True):
            rows |= {pair.expert: pair.expert.shapes[expert][0], pair.other: pair.other.shapes[other][0]}
        if len(set(rows.values())) > 1:
            named = ", ".join(f"{model.path.name} {count}" for model, count in rows.items())
            found.append(f"'{source.name}': Δ is of the first {min(rows.values())} rows, which all have ({named})")
        for model in (model for model in rows if model is not vlm):
            folders, sizes = (tokenizer_folder(model), tokenizer_folder(vlm)), (rows[model], rows[vlm])
            found += check_tokens(*folders, sizes, force=force)
    return found


def _require_bindable(vlm: Checkpoint, sources: Sequence[Source]) -> list[str]:
    """Raise CheckpointError if a part of Δ would find no parameter in the running model; a warning if none knows.

    Experts are laid out differently there, and other tensors may be called otherwise: only where a name is not the one
    that nearly all models have is it worth the time to ask transformers.
    """
    shapes = {source.name: source.shape for source in sources}
    if all(is_ordinary(name) for name in shapes):
        return []
    at_run_time = parameter_shapes(vlm.path)
    if at_run_time is None:
        return [f"{vlm.path}: unknown to transformers; whether Δ fits it at run time is seen in training"]
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


def _source(config: DeltaConfig, name: str, pairs: Sequence[Pair], vlm: tuple[Checkpoint, Mapping[str, str]]) -> Source:
    """Find one tensor in φ_VL, and in expert and other of every pair."""
    wanted = pairs[0].expert.shapes[pairs[0].in_expert[name]]
    models = [model for pair in pairs for model in ((pair.expert, pair.in_expert), (pair.other, pair.in_other))]
    of_tokens = module_of(name) in ("embed", "head")
    for checkpoint, names in (*models, vlm):
        if name not in names or not (of_tokens or checkpoint.shapes[names[name]] == wanted):
            raise CheckpointError(f"{checkpoint.path}: '{name}': {explain_missing(name, wanted, checkpoint.shapes)}")
        checkpoint.require_float(names[name])
    shapes = [checkpoint.shapes[names[name]] for checkpoint, names in (*models, vlm)]
    dtypes = [DTYPES[checkpoint.tensors[names[name]].dtype] for checkpoint, names in models]
    in_pairs = tuple((pair.in_expert[name], pair.in_other[name]) for pair in pairs)
    dtype = functools.reduce(torch.promote_types, dtypes)
    common, layout = min(map(math.prod, shapes)), forms.layout(config, shapes[-1], dtype)
    return Source(name, in_pairs, vlm[1][name], shapes[-1], common, dtype, layout)


def _reading_order(name: str) -> tuple[int, str]:
    layer = layer_index(name)
    return (-1 if layer is None else layer, name)

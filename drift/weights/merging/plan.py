"""Which tensors of which checkpoints are merged, from their headers: no tensor is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.models import MergeConfig
from drift.ground.errors import CheckpointError, ConfigError
from drift.weights.delta.deltafile import DeltaFile, load_delta, require_made_from
from drift.weights.naming.layout import (
    depth,
    explain_missing,
    layer_index,
    match_parameters,
    module_of,
    select_modules,
    unpaired,
)
from drift.weights.pairing import require_multimodal, what_is_odd
from drift.weights.storage.adapters import Adapted, open_model
from drift.weights.storage.checkpoints import Checkpoint, Stored, pair_decoders, resolve
from drift.weights.storage.forms import WHOLE
from drift.weights.storage.mixture import AT_RUN_TIME, arranged, layout_of, rearranged
from drift.weights.storage.pickled import model_at
from drift.weights.storage.sidefiles import SideFiles, side_files

Names = Mapping[str, str]
"""Its own name of each tensor, by the canonical one."""
Other = tuple[Stored, Names]
"""A model or Δ besides φ_VL."""


@dataclass(frozen=True)
class MergePlan:
    """How to merge what: the models, by role and in order, and each tensor of φ_VL that is merged."""

    config: MergeConfig
    vlm: Checkpoint
    others: Mapping[str, Other]
    canonical: dict[str, str]
    """φ_VL's name of a tensor → its canonical name."""
    weights: dict[str, tuple[float, ...]]
    """Of each tensor that is merged, by its canonical name."""
    side_files: SideFiles
    """What else of φ_VL's folder is copied."""

    def sources(self, own: str, name: str) -> list[tuple[Stored, str]]:
        """Every model that is read for a tensor of φ_VL, φ_VL first and φ_base last, with its name there."""
        return [(self.vlm, own), *((model, names[name]) for model, names in self.others.values())]

    @property
    def models(self) -> dict[str, Stored]:
        """Every model, by its role; an adapter's base, too."""
        others = {role: model for role, (model, _) in self.others.items()}
        bases = {f"{role}_base": model.base for role, model in others.items() if isinstance(model, Adapted)}
        return {"vlm": self.vlm, **others, **bases}

    @property
    def experts(self) -> list[Checkpoint]:
        """The text experts that are merged, without φ_base; none for a Δ."""
        return [model for role, (model, _) in self.others.items() if role != "base" and isinstance(model, Checkpoint)]

    @property
    def base(self) -> Checkpoint | None:
        """φ_base, where the method is one over differences from it."""
        model = self.models.get("base")
        return model if isinstance(model, Checkpoint) else None

    @property
    def warnings(self) -> list[str]:
        """What looks odd, known from headers and configurations."""
        others = [self.vlm, *([] if self.base is None else [self.base])]
        odd = what_is_odd([(expert, other) for expert in self.experts for other in others], self.vlm)
        return list(dict.fromkeys([*odd, *self.side_files.warnings]))

    def summary(self) -> dict[str, Any]:
        """What a dry run shows: counts, bytes, models, every tensor that is merged, what is copied, warnings."""
        read = [source for own, name in self.canonical.items() for source in self.sources(own, name)[1:]]
        size = sum(info.size_bytes for info in self.vlm.tensors.values())
        return {
            "tensors": len(self.canonical),
            "copied": len(self.vlm.tensors) - len(self.canonical),
            "read_bytes": size + sum(model.tensors[there].size_bytes for model, there in read),
            "write_bytes": size,
            "models": [str(model.path) for model in self.models.values()],
            "warnings": self.warnings,
            "not_merged": sorted(self.vlm.tensors.keys() - self.canonical.keys()),
            "pairs": [self._pair(own, name) for own, name in self.canonical.items()],
        }

    def _pair(self, own: str, name: str) -> dict[str, Any]:
        there = {role: names[name] for role, (_, names) in self.others.items()}
        return {"name": name, "vlm": own, **there, "weights": self.weights[name]}


def plan_merge(
    config: MergeConfig, *, expert: str | None, vlm: str, base: str | None, delta: Path | None = None
) -> MergePlan:
    """Pair the tensors by their headers; no tensor is read. Raises as `merge`."""
    if (config.method == "delta") != (delta is not None):
        raise ConfigError(f"method: '{config.method}' {'takes no' if delta else 'needs a'} Δ (--delta)")
    if delta is not None:
        return _plan_delta(config, Checkpoint(resolve(vlm)), load_delta(delta))
    if expert is None:
        raise ConfigError(f"method: '{config.method}' needs an expert (--expert)")
    if config.needs_base and base is None:
        raise ConfigError(f"method: '{config.method}' needs models.base (--base), which is not set")
    return _plan_experts(config, expert, vlm, base)


def _plan_delta(config: MergeConfig, vlm: Checkpoint, prior: DeltaFile) -> MergePlan:
    require_made_from(prior, vlm.path)
    require_multimodal(vlm, force=config.force)
    prior = _laid_out_as(prior, vlm)
    shapes = {name: parts[WHOLE].shape if WHOLE in parts else prior.shapes[name] for name, parts in prior.parts.items()}
    partners = match_parameters(vlm.shapes, shapes)
    for own in partners.values():
        vlm.require_float(own)
    others: dict[str, Other] = {"delta": (prior, {name: name for name in shapes})}
    canonical = {partners[name]: name for name in shapes}
    return MergePlan(config, vlm, others, canonical, weights_by_name(config, list(shapes)), side_files(vlm))


def _laid_out_as(prior: DeltaFile, vlm: Checkpoint) -> DeltaFile:
    """Δ with its experts in the layout of the VLM's files. Raises CheckpointError for experts not stored whole."""
    layout = layout_of(vlm) or AT_RUN_TIME
    if layout == AT_RUN_TIME:
        return prior
    for name, parts in prior.parts.items():
        if ".experts." in name and parts.keys() != {WHOLE}:
            raise CheckpointError(
                f"{prior.folder}: '{name}' is in 8 bits or factors, and {vlm.path} stores experts otherwise than Δ; "
                "compute Δ whole (no dtype, no rank)"
            )
    tensors = rearranged(prior.tensors, AT_RUN_TIME, layout)
    kept = {name: parts for name, parts in prior.parts.items() if ".experts." not in name}
    return dataclasses.replace(prior, parts={name: kept.get(name, {WHOLE: info}) for name, info in tensors.items()})


def _plan_experts(config: MergeConfig, expert: str, vlm: str, base: str | None) -> MergePlan:
    visual = Checkpoint(resolve(vlm))
    require_multimodal(visual, force=config.force)
    layout = layout_of(visual) or AT_RUN_TIME
    pickle = config.allow_pickle
    experts = [arranged(open_model(own or expert, allow_pickle=pickle), layout) for own in config.experts or (None,)]
    bases = [resolve(base)] if base is not None and config.needs_base else []
    origin = [arranged(model_at(path, allow_pickle=pickle), layout) for path in bases]
    first, in_vlm = experts[0], pair_decoders(experts[0], visual)
    named = [(model, pair_decoders(first, model) if model is not first else first.canonical()) for model in experts]
    named += [(model, pair_decoders(first, model)) for model in origin]
    wanted = [name for name in first.canonical() if module_of(name) not in ("head", "embed")]
    _require_all(wanted, first, [(visual, in_vlm), *named])
    if config.method == "layer_swap" and config.keep_first >= depth(wanted):
        raise ConfigError(
            f"keep_first: {config.keep_first}, but the decoder has {depth(wanted)} layers; none is merged"
        )
    _require_nothing_left(visual, in_vlm)
    merged = [name for name in wanted if _takes_part(config, name, first.shapes[named[0][1][name]])]
    roles = ["expert"] if len(experts) == 1 else [f"expert_{place}" for place in range(1, len(experts) + 1)]
    others: dict[str, Other] = dict(zip([*roles, *["base"] * len(origin)], named, strict=True))
    canonical = {in_vlm[name]: name for name in merged}
    return MergePlan(config, visual, others, canonical, weights_by_name(config, merged), side_files(visual))


def _require_all(wanted: Sequence[str], expert: Checkpoint, models: Iterable[tuple[Checkpoint, Names]]) -> None:
    """Raise CheckpointError unless every model has every tensor, in a floating type."""
    own = expert.canonical()
    for model, names in models:
        for name in wanted:
            if name not in names:
                why = explain_missing(name, expert.shapes[own[name]], model.shapes)
                raise CheckpointError(f"{model.path}: '{name}': {why}")
            model.require_float(names[name])


def _takes_part(config: MergeConfig, name: str, shape: Sequence[int]) -> bool:
    """Whether a method says anything of a tensor: FRANK of layers, those over singular directions of matrices."""
    if config.method == "frank":
        return layer_index(name) is not None
    return len(shape) == 2 or config.method not in ("frism", "ip_merging")


def weights_by_name(config: MergeConfig, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The weights of each canonical name: those of the last of `parts` that it is in, else of the whole.

    Empty for FRANK, which computes them from the tensors.

    Raises ConfigError if a part selects nothing, or names a layer that the decoder does not have.
    """
    if config.method == "frank":
        return dict.fromkeys(names, ())
    weights: dict[str, tuple[float, ...]] = dict.fromkeys(names, config.weights)
    for place, part in enumerate(config.parts):
        inside = [name for name in names if part.layers is None or layer_index(name) is not None]
        try:
            chosen = select_modules(inside, part.modules or ("re:.",), part.layers)
        except ConfigError as error:
            raise ConfigError(f"parts.{place}.{error}") from error
        weights |= dict.fromkeys(chosen, part.weights)
    return weights


def _require_nothing_left(vlm: Checkpoint, in_vlm: Mapping[str, str]) -> None:
    """Raise CheckpointError if a layer of the VLM's decoder has a tensor that the expert does not have."""
    for name in unpaired(vlm.shapes, in_vlm).values():
        raise CheckpointError(f"{vlm.path}: '{name}' has no partner in the expert: not of one base")

"""Which tensors of which checkpoints are merged, from their headers: no tensor is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drift.config.models import MergeConfig
from drift.ground.errors import CheckpointError, ConfigError
from drift.weights.checkpoints import Checkpoint, pair_decoders, resolve
from drift.weights.layout import depth, explain_missing, layer_index, module_of, select_modules, unpaired


@dataclass(frozen=True)
class MergePlan:
    """How to merge what, and for each tensor of φ_VL that is merged its canonical name; names of the others' too."""

    config: MergeConfig
    vlm: Checkpoint
    expert: Checkpoint
    base: Checkpoint | None
    canonical: dict[str, str]
    in_expert: dict[str, str]
    in_base: dict[str, str]
    weights: dict[str, tuple[float, ...]]
    """Of each tensor that is merged, by its canonical name."""

    def sources(self, own: str, name: str) -> list[tuple[Checkpoint, str]]:
        """Every model that is read for a tensor of φ_VL, φ_VL first and φ_base last, with its name there."""
        models = [(self.vlm, own), (self.expert, self.in_expert[name])]
        return [*models, (self.base, self.in_base[name])] if self.base else models

    def summary(self) -> dict[str, Any]:
        """What a dry run shows: counts, bytes, models, every tensor that is merged, what is copied."""
        read = [(self.expert, self.in_expert), *([(self.base, self.in_base)] if self.base else [])]
        merged = self.canonical.values()
        size = sum(info.size_bytes for info in self.vlm.tensors.values())
        return {
            "tensors": len(self.canonical),
            "copied": len(self.vlm.tensors) - len(self.canonical),
            "read_bytes": size + sum(model.tensors[names[name]].size_bytes for model, names in read for name in merged),
            "write_bytes": size,
            "models": [str(model.path) for model in (self.vlm, *(model for model, _ in read))],
            "not_merged": sorted(self.vlm.tensors.keys() - self.canonical.keys()),
            "pairs": [
                {
                    "name": name,
                    "vlm": own,
                    "expert": self.in_expert[name],
                    "base": self.in_base.get(name),
                    "weights": self.weights[name],
                }
                for own, name in self.canonical.items()
            ],
        }


def plan_merge(config: MergeConfig, *, expert: str, vlm: str, base: str | None) -> MergePlan:
    """Pair the decoders' tensors by their headers; no tensor is read. Raises as `merge`."""
    if config.needs_base and base is None:
        raise ConfigError(f"method: '{config.method}' needs models.base (--base), which is not set")
    visual, reason = Checkpoint(resolve(vlm)), Checkpoint(resolve(expert))
    origin = Checkpoint(resolve(base)) if base is not None and config.needs_base else None
    in_vlm, in_expert = pair_decoders(reason, visual), reason.canonical()
    in_base = pair_decoders(reason, origin) if origin else {}
    wanted = [name for name in in_expert if module_of(name) not in ("head", "embed")]
    for checkpoint, names in [(visual, in_vlm), (reason, in_expert), *([(origin, in_base)] if origin else [])]:
        for name in wanted:
            if name not in names:
                why = explain_missing(name, reason.shapes[in_expert[name]], checkpoint.shapes)
                raise CheckpointError(f"{checkpoint.path}: '{name}': {why}")
            checkpoint.require_float(names[name])
    if config.method == "layer_swap" and config.keep_first >= depth(wanted):
        raise ConfigError(
            f"keep_first: {config.keep_first}, but the decoder has {depth(wanted)} layers; none is merged"
        )
    _require_nothing_left(visual, in_vlm)
    merged = [name for name in wanted if _takes_part(config, name, reason.shapes[in_expert[name]])]
    canonical = {in_vlm[name]: name for name in merged}
    return MergePlan(config, visual, reason, origin, canonical, in_expert, in_base, weights_by_name(config, merged))


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
    for name in unpaired(vlm.tensors, in_vlm).values():
        raise CheckpointError(f"{vlm.path}: '{name}' has no partner in the expert: not of one base")

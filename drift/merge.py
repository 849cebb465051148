"""The merging baselines: one checkpoint out of φ_VL, φ_reason and φ_base, without training.

φ_VL: the multimodal model's text decoder; φ_reason: the text expert; φ_base: the model both come from.
t = φ − φ_base is a task vector; λ, w its weight; density the share of its elements that is kept. Norms and biases
are merged like projections; embeddings, language head and everything outside the decoder are copied from the
multimodal model byte for byte, under their own names, in their own shards.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.artifacts import PROVENANCE, staged, write_json, write_provenance
from drift.checkpoints import INDEX, Checkpoint, fingerprint, original_vlm_sha256, pair_decoders, read_header, resolve
from drift.config import MergeConfig
from drift.errors import CheckpointError, ConfigError
from drift.layout import depth, explain_missing, layer_index, module_of
from drift.pairing import check_same_base
from drift.streaming import DTYPES, copy_tensor, dot, one_thread, progress, require_space, write_tensor

RECIPE = "merge.json"
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
_NEEDS_BASE = ("task_arithmetic", "ties", "dare_ties", "dare_linear")

logger = logging.getLogger(__name__)

# ------------------------------------------------------------------------------------------- the formulas


def linear(vlm: Tensor, expert: Tensor, weights: tuple[float, float]) -> Tensor:
    """λ₁ φ_VL + λ₂ φ_reason: BR2V's merge, also that of Layer Swap in the layers it swaps."""
    return weights[0] * vlm + weights[1] * expert


def task_arithmetic(vlm: Tensor, expert: Tensor, base: Tensor, weights: tuple[float, float]) -> Tensor:
    """φ_base + λ₁ t₁ + λ₂ t₂ (arXiv 2212.04089), gathered by model: λ = (1, 0) is φ_VL bit for bit."""
    return weights[0] * vlm + weights[1] * expert + (1.0 - weights[0] - weights[1]) * base


def trim(task: Tensor, density: float) -> Tensor:
    """Keep the ⌊density · n⌋ elements of largest magnitude, the rest is 0 (TIES, arXiv 2306.01708, step 1)."""
    if density >= 1:
        return task
    kept = task.abs().reshape(-1).topk(int(density * task.numel()), sorted=False).indices
    mask = torch.zeros(task.numel(), dtype=task.dtype)
    mask[kept] = 1
    return task * mask.reshape(task.shape)


def drop(task: Tensor, density: float, generator: torch.Generator, *, rescale: bool) -> Tensor:
    """Keep each element with probability `density` (DARE, arXiv 2311.03099); `rescale` divides by it."""
    if density >= 1:
        return task
    kept = task * torch.bernoulli(torch.full_like(task, density), generator=generator)
    return kept / density if rescale else kept


def elect_signs(tasks: Tensor) -> Tensor:
    """Which elements agree with the sign of the unweighted sum over tasks (dimension 0); zeros agree with none."""
    elected = torch.where(tasks.sum(dim=0) >= 0, 1, -1)
    return tasks.sign() == elected


def disjoint_sum(tasks: Tensor, agreeing: Tensor, weights: tuple[float, float]) -> Tensor:
    """Σ wᵢ tᵢ over the agreeing tasks / max(1, number agreeing) (TIES, step 3)."""
    weighted = tasks * torch.tensor(weights).view(-1, *[1] * (tasks.dim() - 1))
    return (weighted * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1.0)


def tensor_generator(seed: int, name: str) -> torch.Generator:
    """Randomness of one tensor, from the seed and the canonical name: whatever else is merged, and in what order."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def merge_tensor(config: MergeConfig, name: str, vlm: Tensor, expert: Tensor, base: Tensor | None) -> Tensor:
    """One tensor of the merged decoder, in float32, from float32 tensors of equal shape."""
    if config.method == "layer_swap" and (layer_index(name) or 0) < config.keep_first and name.startswith("layers."):
        return vlm
    if base is None:
        return linear(vlm, expert, config.weights)
    if config.method == "task_arithmetic":
        return task_arithmetic(vlm, expert, base, config.weights)
    tasks = torch.stack(_sparsify(config, name, vlm - base, expert - base))
    if config.method == "dare_linear":
        return base + linear(tasks[0], tasks[1], config.weights)
    return base + disjoint_sum(tasks, elect_signs(tasks), config.weights)


def _sparsify(config: MergeConfig, name: str, *tasks: Tensor) -> list[Tensor]:
    if config.method == "ties":
        return [trim(task, config.density) for task in tasks]
    generator = tensor_generator(config.seed, name)
    return [drop(task, config.density, generator, rescale=config.rescale) for task in tasks]


# ------------------------------------------------------------------------------------------ checkpoints


@dataclass(frozen=True)
class MergeReport:
    """What was merged: tensors merged and copied, and ‖merged − φ_VL‖ / ‖φ_VL‖ over the merged ones."""

    folder: Path
    method: str
    merged: int
    copied: int
    relative_change: float
    seconds: float
    warnings: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Flat names for MLflow."""
        names = ("merged", "copied", "relative_change", "seconds")
        return {f"merge/{name}": float(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class MergePlan:
    """The checkpoints, and for each tensor of φ_VL that is merged its canonical name; names of the others' too."""

    vlm: Checkpoint
    expert: Checkpoint
    base: Checkpoint | None
    canonical: dict[str, str]
    in_expert: dict[str, str]
    in_base: dict[str, str]

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
                {"name": name, "vlm": own, "expert": self.in_expert[name], "base": self.in_base.get(name)}
                for own, name in self.canonical.items()
            ],
        }


def merge(config: MergeConfig, *, expert: str, vlm: str, base: str | None, out: Path) -> MergeReport:
    """Merge the text decoders into the folder `out`: a model directory with the VLM's tensor names and side files.

    Streams tensor by tensor: arithmetic in float32, output in the VLM's dtype. The recipe stands in `merge.json`.
    Raises CheckpointError if the decoders do not pair, ConfigError if the method lacks a base or merges nothing.
    """
    started = time.monotonic()
    todo = plan_merge(config, expert=expert, vlm=vlm, base=base)
    with one_thread(), staged(out) as folder:
        warnings = tuple(check_same_base(todo.expert, [todo.vlm], force=True))
        for warning in warnings:
            logger.warning("merge: %s", warning)
        require_space(folder, sum(file.stat().st_size for file in todo.vlm.files))
        changes = _write_shards(config, todo, folder)
        _copy_side_files(todo.vlm.path, folder)
        _write_recipe(config, todo, folder)
    merged = len(todo.canonical)
    change = math.sqrt(changes[0] / changes[1]) if changes[1] else 0.0
    return MergeReport(
        out, config.method, merged, len(todo.vlm.tensors) - merged, change, time.monotonic() - started, warnings
    )


def plan_merge(config: MergeConfig, *, expert: str, vlm: str, base: str | None) -> MergePlan:
    """Pair the decoders' tensors by their headers; no tensor is read. Raises as `merge`."""
    if config.method in _NEEDS_BASE and base is None:
        raise ConfigError(f"method: '{config.method}' needs models.base (--base), which is not set")
    visual, reason = Checkpoint(resolve(vlm)), Checkpoint(resolve(expert))
    origin = Checkpoint(resolve(base)) if base is not None and config.method in _NEEDS_BASE else None
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
    return MergePlan(visual, reason, origin, {in_vlm[name]: name for name in wanted}, in_expert, in_base)


def _require_nothing_left(vlm: Checkpoint, in_vlm: Mapping[str, str]) -> None:
    """Raise CheckpointError if a layer of the VLM's decoder has a tensor that the expert does not have."""
    inside = next(name for name in in_vlm if name.startswith("layers."))
    prefix = in_vlm[inside].removesuffix(inside) + "layers."
    for name in vlm.tensors.keys() - set(in_vlm.values()):
        if name.startswith(prefix):
            raise CheckpointError(f"{vlm.path}: '{name}' has no partner in the expert: not of one base")


def _write_shards(config: MergeConfig, todo: MergePlan, folder: Path) -> tuple[float, float]:
    """Write every weight file with its header as it was; returns (‖merged − φ_VL‖², ‖φ_VL‖²)."""
    changes = []
    with progress("merge", sum(info.size_bytes for info in todo.vlm.tensors.values())) as bar:
        for file in todo.vlm.files:
            header = read_header(file)
            with file.open("rb") as source, (folder / file.name).open("wb") as stream:
                stream.write(source.read(header.size_bytes))
                for name, info in sorted(header.tensors.items(), key=lambda item: item[1].start):
                    if name in todo.canonical:
                        merged, vlm = _merged(config, todo, name)
                        write_tensor(stream, merged.to(DTYPES[info.dtype]))
                        moved = merged - vlm
                        changes.append((dot(moved, moved), dot(vlm, vlm)))
                    else:
                        copy_tensor(stream, source, info)
                    bar.update(info.size_bytes)
    return math.fsum(change for change, _ in changes), math.fsum(size for _, size in changes)


def _merged(config: MergeConfig, todo: MergePlan, name: str) -> tuple[Tensor, Tensor]:
    canonical = todo.canonical[name]
    vlm, expert = todo.vlm.tensor(name).float(), todo.expert.tensor(todo.in_expert[canonical]).float()
    base = todo.base.tensor(todo.in_base[canonical]).float() if todo.base else None
    merged = merge_tensor(config, canonical, vlm, expert, base)
    if not merged.isfinite().all():
        raise CheckpointError(f"'{canonical}': the merge holds NaN or infinity; one of the checkpoints is broken")
    return merged, vlm


def _copy_side_files(source: Path, folder: Path) -> None:
    """Copy configuration, processor, tokenizer, chat template: all but weights, which are written."""
    for file in sorted(source.iterdir()):
        skipped = file.name in (PROVENANCE, RECIPE) or file.name.startswith(".") or file.suffix in _WEIGHT_SUFFIXES
        foreign_index = file.name.endswith(".index.json") and file.name != INDEX
        if file.is_file() and not skipped and not foreign_index:
            shutil.copyfile(file, folder / file.name)


def _write_recipe(config: MergeConfig, todo: MergePlan, folder: Path) -> None:
    section = config.model_dump(mode="json")
    models = {"vlm": todo.vlm, "expert": todo.expert, **({"base": todo.base} if todo.base else {})}
    recipe = {
        **section,
        "weights_sha256": {name: fingerprint(checkpoint.path) for name, checkpoint in models.items()},
        "merged": sorted(todo.canonical.values()),
        "copied": sorted(todo.vlm.tensors.keys() - todo.canonical.keys()),
    }
    write_json(folder / RECIPE, recipe)
    inputs = {name: checkpoint.path for name, checkpoint in models.items()}
    original = original_vlm_sha256(todo.vlm.path)
    write_provenance(folder, "merge", config=section, inputs=inputs, original_vlm_sha256=original)

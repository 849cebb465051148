"""The merging baselines: one checkpoint out of φ_VL, φ_reason and φ_base, without training.

φ_VL: the multimodal model's text decoder; φ_reason: the text expert; φ_base: the model both come from.
t = φ − φ_base is a task vector; λ, w its weight; density the share of its elements that is kept. Norms and biases
are merged like projections; embeddings, language head and everything outside the decoder are copied from the
multimodal model byte for byte, under their own names, in their own shards.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from drift.config.models import MergeConfig
from drift.ground.artifacts import PROVENANCE, staged, write_json, write_provenance
from drift.ground.errors import CheckpointError, ConfigError
from drift.weights.checkpoints import (
    INDEX,
    Checkpoint,
    fingerprint,
    original_vlm_sha256,
    pair_decoders,
    read_header,
    resolve,
)
from drift.weights.finite import is_finite, require_finite
from drift.weights.layout import depth, explain_missing, layer_index, module_of, unpaired
from drift.weights.pairing import check_same_base
from drift.weights.streaming import (
    CHUNK_ELEMENTS,
    DTYPES,
    chunks,
    copy_tensor,
    created,
    one_thread,
    pieces,
    progress,
    require_space,
    write_tensor,
)

RECIPE = "merge.json"
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
_LOW_BITS = 15
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
    return trimmer(lambda: iter([task]), task.numel(), density)(task)


def trimmer(read: Callable[[], Iterator[Tensor]], elements: int, density: float) -> Callable[[Tensor], Tensor]:
    """`trim` of a float32 tensor that is read in pieces: call the result on each piece, from the first to the last.

    Of magnitudes equal to the smallest that is kept, the first ones stay, so that ⌊density · n⌋ do.
    """
    kept = int(density * elements)
    if density >= 1:
        return lambda piece: piece
    threshold, left = _kth_magnitude(read, kept) if kept else (math.inf, 0)

    def keep(piece: Tensor) -> Tensor:
        nonlocal left
        magnitude = piece.abs()
        mask = magnitude > threshold
        equal = (magnitude == threshold).nonzero(as_tuple=True)
        first = tuple(index[:left] for index in equal)
        mask[first] = True
        left -= len(first[0])
        return piece * mask

    return keep


def _kth_magnitude(read: Callable[[], Iterator[Tensor]], k: int) -> tuple[float, int]:
    """(the k-th largest magnitude, how many of that very magnitude are among the k largest), in two readings.

    The bits of a non-negative float32 are ordered as its values are: count the upper half of the bits, then the lower
    half of those in the bin where the k-th lies. No piece is sorted or copied.
    """
    upper = _counts((piece.abs().view(torch.int32) >> _LOW_BITS for piece in read()), 1 << 16)
    high, above = _kth_bin(upper, k)
    bits = (piece.abs().view(torch.int32).reshape(-1) for piece in read())
    inside = (piece[piece >> _LOW_BITS == high] & ((1 << _LOW_BITS) - 1) for piece in bits)
    low, more = _kth_bin(_counts(inside, 1 << _LOW_BITS), k - above)
    return float(torch.tensor(high << _LOW_BITS | low, dtype=torch.int32).view(torch.float32)), k - above - more


def _counts(pieces: Iterable[Tensor], bins: int) -> Tensor:
    total = torch.zeros(bins, dtype=torch.int64)
    for piece in pieces:
        total += torch.bincount(piece.reshape(-1), minlength=bins)
    return total


def _kth_bin(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th from above, and how many are in the bins above it."""
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, k))
    return len(counts) - 1 - place, int(from_above[place - 1]) if place else 0


def drop(task: Tensor, density: float, generator: torch.Generator, *, rescale: bool) -> Tensor:
    """Keep each element with probability `density` (DARE, arXiv 2311.03099); `rescale` divides by it."""
    return _masked(task, keep_mask(task.numel(), density, generator).reshape(task.shape), density, rescale)


def keep_mask(elements: int, density: float, generator: torch.Generator) -> Tensor:
    """Which elements DARE keeps: the same bits, drawn at once or in pieces one after the other."""
    mask = torch.empty(elements, dtype=torch.bool)
    for piece in mask.split(CHUNK_ELEMENTS):
        piece.copy_(torch.bernoulli(torch.full((piece.numel(),), density), generator=generator))
    return mask


def _masked(task: Tensor, mask: Tensor, density: float, rescale: bool) -> Tensor:
    return task * mask / density if rescale and density < 1 else task * mask


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
    tensors = [vlm, expert] if base is None else [vlm, expert, base]
    read = functools.partial(pieces, *tensors)
    return torch.cat(list(merge_pieces(config, name, vlm.numel(), read))).reshape(vlm.shape)


Read = Callable[[], Iterable[Sequence[Tensor]]]
"""Read φ_VL, φ_reason and, for methods that need it, φ_base, from the beginning: flat, a stretch at a time."""


def merge_pieces(config: MergeConfig, name: str, elements: int, read: Read) -> Iterator[Tensor]:
    """`merge_tensor`, a stretch at a time, in float32; TIES reads each tensor five times, everything else once."""
    keep: tuple[Callable[[Tensor], Tensor], ...] | None = None
    for vlm, expert, *rest in read():
        if not rest:
            kept = config.method == "layer_swap" and _stays(config, name)
            yield vlm.clone() if kept else linear(vlm, expert, config.weights)
        elif config.method == "task_arithmetic":
            yield task_arithmetic(vlm, expert, rest[0], config.weights)
        else:
            keep = keep or _sparsifiers(config, name, elements, read)
            tasks = torch.stack([keep[0](vlm - rest[0]), keep[1](expert - rest[0])])
            yield rest[0] + _joined(config, tasks)


def _stays(config: MergeConfig, name: str) -> bool:
    """Whether a layer swap leaves this tensor the VLM's."""
    return name.startswith("layers.") and (layer_index(name) or 0) < config.keep_first


def _joined(config: MergeConfig, tasks: Tensor) -> Tensor:
    if config.method == "dare_linear":
        return linear(tasks[0], tasks[1], config.weights)
    return disjoint_sum(tasks, elect_signs(tasks), config.weights)


def _sparsifiers(config: MergeConfig, name: str, elements: int, read: Read) -> tuple[Callable[[Tensor], Tensor], ...]:
    """What makes each of the two task vectors sparse, called on their stretches in order."""
    if config.method == "ties":
        tasks = (lambda: (vlm - base for vlm, _, base in read()), lambda: (expert - base for _, expert, base in read()))
        return tuple(trimmer(task, elements, config.density) for task in tasks)
    generator = tensor_generator(config.seed, name)
    masks = [keep_mask(elements, config.density, generator) for _ in range(2)]
    return tuple(_dropper(config, mask) for mask in masks)


def _dropper(config: MergeConfig, mask: Tensor) -> Callable[[Tensor], Tensor]:
    done = 0

    def keep(piece: Tensor) -> Tensor:
        nonlocal done
        done += piece.numel()
        return _masked(piece, mask[done - piece.numel() : done], config.density, config.rescale)

    return keep


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
    Raises CheckpointError if the decoders do not pair or a tensor holds NaN or infinity, ConfigError if the method
    lacks a base or merges nothing.
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
    for name in unpaired(vlm.tensors, in_vlm).values():
        raise CheckpointError(f"{vlm.path}: '{name}' has no partner in the expert: not of one base")


def _write_shards(config: MergeConfig, todo: MergePlan, folder: Path) -> tuple[float, float]:
    """Write every weight file with its header as it was; returns (‖merged − φ_VL‖², ‖φ_VL‖²)."""
    total = torch.zeros(2, dtype=torch.float64)
    with progress("merge", sum(info.size_bytes for info in todo.vlm.tensors.values())) as bar:
        for file in todo.vlm.files:
            header = read_header(file)
            with file.open("rb") as source, created(folder / file.name, file.stat().st_size) as stream:
                stream.write(source.read(header.size_bytes))
                for name, info in sorted(header.tensors.items(), key=lambda item: item[1].start):
                    if name in todo.canonical:
                        total += _write_merged(config, todo, name, stream)
                    else:
                        if name in todo.vlm.tensors:  # else no index names it, and nobody reads it
                            require_finite(todo.vlm, name)
                        copy_tensor(stream, source, info)
                    bar.update(info.size_bytes)
    moved, whole = total.tolist()
    return moved, whole


def _write_merged(config: MergeConfig, todo: MergePlan, name: str, stream: BinaryIO) -> Tensor:
    """Append one merged tensor; (‖merged − φ_VL‖², ‖φ_VL‖²) of it."""
    canonical, info = todo.canonical[name], todo.vlm.tensors[name]
    models = [(todo.vlm, name), (todo.expert, todo.in_expert[canonical])]
    if todo.base:
        models.append((todo.base, todo.in_base[canonical]))

    def read() -> Iterator[list[Tensor]]:
        stretches = (model.pieces(own, CHUNK_ELEMENTS) for model, own in models)
        return ([piece.float() for piece in stretch] for stretch in zip(*stretches, strict=True))

    sums = torch.zeros(2, dtype=torch.float64)
    merged = merge_pieces(config, canonical, math.prod(info.shape), read)
    for piece, vlm in zip(merged, todo.vlm.pieces(name, CHUNK_ELEMENTS), strict=True):
        stored = piece.to(DTYPES[info.dtype])
        if not is_finite(stored):
            for model, own in models:
                require_finite(model, own)
            raise CheckpointError(f"'{canonical}': the merge overflows {info.dtype}; give smaller weights")
        write_tensor(stream, stored)
        for after, before in chunks(piece, vlm):
            sums[1] += before @ before
            after -= before
            sums[0] += after @ after
    return sums


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

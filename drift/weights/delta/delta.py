"""The prior Δ = φ_reason − φ_other, tensor by tensor from checkpoints on disk (DRIFT, section 3).

φ_reason: the text expert. φ_VL: the text decoder of the multimodal model. φ_other: φ_VL (the paper's), φ_base, or
another checkpoint. ‖·‖ is the norm over one whole tensor. Δ is stored raw, under canonical names: every scale can
be derived from it, and it fits whatever name the running model gives to its decoder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from drift.config.models import DeltaConfig
from drift.ground.artifacts import content_sha256, hashing, staged, write_json, write_provenance
from drift.ground.errors import CheckpointError
from drift.ground.progress import Bar
from drift.weights.delta.about import draw, task_vector
from drift.weights.delta.deltafile import (
    DELTA,
    FORMAT,
    INDEX,
    STATS,
    TensorStats,
    energy,
    layer_table,
    mean_cosine,
    relative_l2,
    sparsity_of,
)
from drift.weights.delta.stretches import parts, wanted
from drift.weights.pairing import DeltaPlan, Source, check_same_base, plan, require_different, sparse_warnings
from drift.weights.storage.adapters import Adapted
from drift.weights.storage.checkpoints import Checkpoint, original_vlm_sha256
from drift.weights.storage.finite import require_finite
from drift.weights.storage.forms import WHOLE, shortened
from drift.weights.storage.streaming import (
    PIECE_ELEMENTS,
    Sparsity,
    chunks,
    created,
    distance,
    encode_header,
    one_thread,
    progress,
    require_space,
    sparsity,
    write_tensor,
)

UNHASHED = "0" * 64
SHARD_BYTES = 20 * 10**9
"""Of tensors in one file: Kubeflow uploads in parts of 5 MiB, of which an object store takes 10,000."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeltaReport:
    """What was computed: counts, whole norms, what a rank or 8 bits left of ‖Δ‖², sparsity, and warnings."""

    folder: Path
    tensors: int
    elements: int
    l2: float
    relative_l2: float
    cosine: float
    bytes: int
    energy: float
    zeros: float
    tiny: float
    seconds: float
    warnings: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Flat names for MLflow."""
        names = ("tensors", "elements", "bytes", "l2", "relative_l2", "cosine", "energy", "zeros", "tiny", "seconds")
        return {f"delta/{name}": float(getattr(self, name)) for name in names}


def compute_delta(
    config: DeltaConfig,
    *,
    expert: str,
    vlm: str,
    base: str | None,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> DeltaReport:
    """Δ = φ_reason − φ_other for the selected tensors, in the checkpoints' dtype, streamed into the folder `out`.

    With several experts Δ is their weighted mean in the sense of `mixing_factors`, tensor by tensor. Writes
    `delta.safetensors`, or several files of at most ``shard_bytes`` and their index, `delta_stats.json`, the table
    `layers.md`, its picture `delta.svg`, and the provenance. Raises CheckpointError if a tensor holds NaN or infinity,
    an expert is what is subtracted from it, or (without `force`) the two do not look like fine-tunes of one base.
    """
    started = time.monotonic()
    todo = plan(config, expert=expert, vlm=vlm, base=base)
    with contextlib.nullcontext() if config.rank else one_thread():
        related = [
            warning
            for pair in todo.pairs
            for warning in check_same_base(pair.expert, dict.fromkeys((pair.other, todo.vlm)), force=config.force)
        ]
        warnings = (*todo.warnings, *related, *sparse_warnings((pair.expert, pair.other) for pair in todo.pairs))
        for warning in warnings:
            logger.warning("delta: %s", warning)
        with staged(out) as folder:
            require_space(folder, todo.size_bytes)
            require_different(todo)
            with hashing(model.path for model in todo.checkpoints):
                stats = _stream(todo, folder, shards := _shards(todo, shard_bytes))
            _write_hashes(todo, folder, shards)
            _write_sidecars(folder, todo, stats, warnings)
    return _report(out, todo, stats, time.monotonic() - started, warnings)


def part_sums(delta: Tensor, vlm: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums over one stretch of a tensor: |Δ|, Δ², φ_VL², φ_VL·Δ; then e·o, e², o² of each (e, o) pair; float64.

    Where o is φ_VL itself its square is taken once. Values of 16 bits multiply exactly in float32, so their sums over
    a chunk are taken in it.
    """
    tensors = [delta, vlm, *itertools.chain(*((e,) if o is vlm else (e, o) for e, o in pairs))]
    exact = all(tensor.dtype.itemsize == 2 for tensor in tensors)
    total = torch.zeros(4 + 3 * len(pairs), dtype=torch.float64)
    for d, v, *rest in chunks(*tensors, dtype=torch.float32 if exact else torch.float64):
        sums, left = [d @ d, v @ v, v @ d], iter(rest)
        for _, other in pairs:
            e = next(left)
            o = v if other is vlm else next(left)
            sums += [e @ o, e @ e, sums[1] if other is vlm else o @ o]
        total += torch.stack([d.abs_().sum(), *sums]).double()
    return total


def stats_from_sums(
    sums: Tensor, weights: Sequence[float], shape: tuple[int, ...], sparse: Sparsity | None = None
) -> TensorStats:
    """The statistics of a tensor, from its `part_sums`; the cosine is the mean over experts, weighted by |wᵢ|."""
    l1, delta_squared, vlm_squared, vlm_dot_delta, *of_pairs = sums.tolist()
    shares = [abs(weight) for weight in weights]
    triples = zip(of_pairs[0::3], of_pairs[1::3], of_pairs[2::3], strict=True)
    cosines = [dot / math.sqrt(e * o) if e and o else 0.0 for dot, e, o in triples]
    return TensorStats(
        l1=l1,
        l2=math.sqrt(delta_squared),
        vlm_l2=math.sqrt(vlm_squared),
        cosine=math.fsum(share * cosine for share, cosine in zip(shares, cosines, strict=True)) / math.fsum(shares),
        vlm_dot_delta=vlm_dot_delta,
        full_l2=math.sqrt(delta_squared),
        energy=1.0,
        zeros=sparse.zeros if sparse else None,
        tiny=sparse.tiny if sparse else None,
        numel=math.prod(shape),
        shape=shape,
    )


Shards = Mapping[str, Sequence[Source]]
"""The files of Δ, and which tensors go into each."""


def _shards(todo: DeltaPlan, most_bytes: int) -> Shards:
    """All tensors in one file, or in as many as it takes that none is larger; one large tensor has its own."""
    groups: list[list[Source]] = [[]]
    for source in todo.sources:
        if groups[-1] and sum(one.size_bytes for one in (*groups[-1], source)) > most_bytes:
            groups.append([])
        groups[-1].append(source)
    if len(groups) == 1:
        return {DELTA: groups[0]}
    stem, suffix = DELTA.split(".")
    return {f"{stem}-{place:05}-of-{len(groups):05}.{suffix}": group for place, group in enumerate(groups, 1)}


def _stream(todo: DeltaPlan, folder: Path, shards: Shards) -> dict[str, TensorStats]:
    stats: dict[str, TensorStats] = {}
    with progress("delta", todo.size_bytes) as bar:
        for file, sources in shards.items():
            stats |= _stream_file(todo, folder / file, sources, bar)
    if not any(entry["l2"] for entry in stats.values()):
        raise CheckpointError("the experts' weights cancel out: Δ = 0; give them other weights")
    if len(shards) > 1:
        names = {name: file for file, sources in shards.items() for name in _stored(sources)}
        write_json(folder / INDEX, {"metadata": {"total_size": todo.size_bytes}, "weight_map": names})
    return stats


def _stream_file(todo: DeltaPlan, file: Path, sources: Sequence[Source], bar: Bar) -> dict[str, TensorStats]:
    header = _header(todo, sources, dict.fromkeys(todo.checkpoints, UNHASHED))
    stats: dict[str, TensorStats] = {}
    with created(file, len(header) + sum(source.size_bytes for source in sources)) as stream:
        stream.write(header)
        for source in sources:
            stats[source.name] = _write(todo, source, stream)
            bar.advance(source.size_bytes)
    return stats


def _write(todo: DeltaPlan, source: Source, stream: BinaryIO) -> TensorStats:
    """Append one tensor of Δ. It is in memory until this returns, and no other is."""
    whole, entry = _difference(todo, source)
    form = shortened(whole, todo.config, source.name)
    for part in form.parts.values():
        write_tensor(stream, part)
    return entry if form.parts.keys() == {WHOLE} else _stats_of_stored(todo, source, whole, form.whole(), entry)


def _difference(todo: DeltaPlan, source: Source) -> tuple[Tensor, TensorStats]:
    """One tensor of Δ, whole, and its statistics. Raises CheckpointError if it is not finite."""
    weights = [pair.weight for pair in todo.pairs]
    whole, start = torch.empty(math.prod(source.shape), dtype=source.dtype), 0
    sums = torch.zeros(4 + 3 * len(weights), dtype=torch.float64)
    for delta, vlm, pairs in parts(todo, source):
        sums += part_sums(delta, vlm, pairs)
        whole[start : start + len(delta)] = delta
        start += len(delta)
    _require_finite(todo, source, sums)
    return whole.view(source.shape), stats_from_sums(sums, weights, source.shape, sparsity(whole))


def _stats_of_stored(todo: DeltaPlan, source: Source, whole: Tensor, stored: Tensor, entry: TensorStats) -> TensorStats:
    """The statistics of what is stored in place of a tensor of Δ; φ_VL is read once more."""
    read = zip(stored.flatten().split(PIECE_ELEMENTS), todo.vlm.pieces(source.vlm, PIECE_ELEMENTS), strict=True)
    sums = sum((part_sums(piece, vlm, []) for piece, vlm in read), torch.zeros(4, dtype=torch.float64))
    l1, squared, _, vlm_dot_delta = sums.tolist()
    lost = (distance(whole, stored) / entry["full_l2"]) ** 2 if entry["full_l2"] else 0.0
    return entry | {"l1": l1, "l2": math.sqrt(squared), "vlm_dot_delta": vlm_dot_delta, "energy": 1 - lost}


def _stored(sources: Sequence[Source]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of all that is stored of some tensors, by name."""
    return {source.name + ending: part for source in sources for ending, part in source.parts.items()}


def _header(todo: DeltaPlan, sources: Sequence[Source], hashes: Mapping[Checkpoint, str]) -> bytes:
    """The header of a Δ file, which says what it is: direction, selection, and the models with their contents' hash.

    Models are named without their place on this machine: the same Δ made elsewhere has the same bytes.
    """
    config = todo.config
    models = [{"name": m.name, "revision": m.revision, "sha256": hashes[m]} for m in todo.checkpoints]
    metadata = {
        "format": FORMAT,
        "version": "1",
        "direction": todo.direction,
        "modules": ",".join(config.modules),
        "layers": config.layers or "all",
        "models": json.dumps(models),
    }
    metadata |= {key: str(value) for key, value in (("rank", config.rank), ("dtype", config.dtype)) if value}
    return encode_header(_stored(sources), metadata)


def _write_hashes(todo: DeltaPlan, folder: Path, shards: Shards) -> None:
    """Put the models' hashes, which were taken while Δ was written, into the headers in place of zeros."""
    hashes = {model: content_sha256(model.path) for model in todo.checkpoints}
    for file, sources in shards.items():
        with (folder / file).open("r+b") as stream:
            stream.write(_header(todo, sources, hashes))


def _require_finite(todo: DeltaPlan, source: Source, sums: Tensor) -> None:
    if sums.isfinite().all():
        return
    for checkpoint, name in wanted(todo, source):
        require_finite(checkpoint, name)
    raise CheckpointError(f"'{source.name}': the difference overflows {source.dtype}; the checkpoints do not fit")


def _write_sidecars(folder: Path, todo: DeltaPlan, stats: Mapping[str, TensorStats], warnings: tuple[str, ...]) -> None:
    section = todo.config.model_dump(mode="json")
    inputs = {"vlm": todo.vlm.path}
    for place, pair in enumerate(todo.pairs, 1):
        inputs |= {f"expert_{place}": pair.expert.path, f"other_{place}": pair.other.path}
        inputs |= {f"expert_{place}_base": pair.expert.base.path} if isinstance(pair.expert, Adapted) else {}
    about = {"format": FORMAT, "direction": todo.direction, **section, "task_vectors": [*map(task_vector, todo.pairs)]}
    write_json(folder / STATS, about | {"tensors": stats})
    draw(folder, layer_table(stats))
    write_provenance(
        folder,
        "delta",
        config=section,
        inputs=inputs,
        direction=todo.direction,
        original_vlm_sha256=original_vlm_sha256(todo.vlm.path),
        warnings=list(warnings),
    )


def _report(
    out: Path, todo: DeltaPlan, stats: Mapping[str, TensorStats], seconds: float, warnings: tuple[str, ...]
) -> DeltaReport:
    sparse = sparsity_of(stats.values()) or Sparsity(0.0, 0.0)
    return DeltaReport(
        folder=out,
        tensors=len(stats),
        elements=sum(entry["numel"] for entry in stats.values()),
        l2=math.hypot(*(entry["l2"] for entry in stats.values())),
        relative_l2=relative_l2(stats.values()),
        cosine=mean_cosine(stats.values()),
        bytes=todo.size_bytes,
        energy=energy(stats.values()),
        zeros=sparse.zeros,
        tiny=sparse.tiny,
        seconds=seconds,
        warnings=warnings,
    )

"""The merges on disk: checkpoints in, a model directory out, written tensor by tensor.

Embeddings, language head and everything outside the decoder are copied from the multimodal model byte for byte,
under their own names, in their own shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from drift.config.models import MergeConfig
from drift.ground.artifacts import staged, write_json, write_provenance
from drift.ground.errors import CheckpointError
from drift.weights.merging.frank import weights_in
from drift.weights.merging.plan import MergePlan, plan_merge
from drift.weights.merging.tensors import Job, merge_pieces
from drift.weights.pairing import check_same_base, sparse_warnings
from drift.weights.storage.checkpoints import original_vlm_sha256
from drift.weights.storage.finite import is_finite, require_finite
from drift.weights.storage.headers import read_header
from drift.weights.storage.sidefiles import RECIPE
from drift.weights.storage.streaming import (
    CHUNK_ELEMENTS,
    DTYPES,
    chunks,
    copy_tensor,
    created,
    one_thread,
    progress,
    require_space,
    write_tensor,
)

logger = logging.getLogger(__name__)


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


def merge(
    config: MergeConfig, *, expert: str | None, vlm: str, base: str | None, out: Path, delta: Path | None = None
) -> MergeReport:
    """Merge the text decoders, or add a stored Δ to φ_VL's (method `delta`), into the folder `out`.

    That is a model directory with the VLM's tensor names and side files. Streams tensor by tensor: arithmetic in
    float32, output in the VLM's dtype. The recipe stands in `merge.json`. Raises CheckpointError if the decoders do not
    pair, a tensor holds NaN or infinity, or (without `force`) two models do not look like fine-tunes of one base or
    φ_VL is a text model; PriorError if Δ is of another φ_VL; ConfigError if the method lacks a base, an expert or a Δ,
    or merges nothing.
    """
    started = time.monotonic()
    todo = plan_merge(config, expert=expert, vlm=vlm, base=base, delta=delta)
    with _threads(config), staged(out) as folder:
        warnings = _warnings(todo)
        for warning in warnings:
            logger.warning("merge: %s", warning)
        files = (*todo.vlm.files, *todo.side_files.copied)
        require_space(folder, sum(file.stat().st_size for file in files))
        if config.method == "frank":
            todo = dataclasses.replace(todo, weights=weights_in(todo))
        changes = _write_shards(todo, folder)
        for index in todo.vlm.indices:
            shutil.copyfile(index, folder / index.name)
        todo.side_files.copy(folder)
        _write_recipe(todo, folder)
    merged = len(todo.canonical)
    change = math.sqrt(changes[0] / changes[1]) if changes[1] else 0.0
    return MergeReport(
        out, config.method, merged, len(todo.vlm.tensors) - merged, change, time.monotonic() - started, warnings
    )


def _threads(config: MergeConfig) -> contextlib.AbstractContextManager[None]:
    """One thread, but for the methods that decompose large matrices."""
    return contextlib.nullcontext() if config.method in ("frism", "ip_merging") else one_thread()


def _warnings(todo: MergePlan) -> tuple[str, ...]:
    """What looks odd. Raises CheckpointError if two models look unrelated, unless `force`: as for a Δ."""
    origin = [] if todo.base is None else [todo.base]
    pairs = [(expert, [todo.vlm, *origin]) for expert in todo.experts] + [(base, [todo.vlm]) for base in origin]
    related = [line for model, others in pairs for line in check_same_base(model, others, force=todo.config.force)]
    sparse = sparse_warnings((expert, base) for expert in todo.experts for base in origin)
    return (*todo.warnings, *dict.fromkeys(related), *sparse)


def _write_shards(todo: MergePlan, folder: Path) -> tuple[float, float]:
    """Write every weight file with its header as it was; returns (‖merged − φ_VL‖², ‖φ_VL‖²)."""
    total = torch.zeros(2, dtype=torch.float64)
    with progress("merge", sum(info.size_bytes for info in todo.vlm.tensors.values())) as bar:
        for file in todo.vlm.files:
            header = read_header(file)
            written = folder / file.relative_to(todo.vlm.path)
            written.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as source, created(written, file.stat().st_size) as stream:
                stream.write(source.read(header.size_bytes))
                for name, info in sorted(header.tensors.items(), key=lambda item: item[1].start):
                    if todo.vlm.tensors[name] != info:  # in two files, of which the other one counts
                        copy_tensor(stream, source, info)
                    elif name in todo.canonical:
                        total += _write_merged(todo, name, stream)
                    else:
                        require_finite(todo.vlm, name)
                        copy_tensor(stream, source, info)
                    bar.advance(info.size_bytes)
    moved, whole = total.tolist()
    return moved, whole


def _write_merged(todo: MergePlan, name: str, stream: BinaryIO) -> Tensor:
    """Append one merged tensor; (‖merged − φ_VL‖², ‖φ_VL‖²) of it."""
    canonical, info = todo.canonical[name], todo.vlm.tensors[name]
    models = todo.sources(name, canonical)

    def read() -> Iterator[list[Tensor]]:
        stretches = (model.pieces(own, CHUNK_ELEMENTS) for model, own in models)
        return ([piece.float() for piece in stretch] for stretch in zip(*stretches, strict=True))

    sums = torch.zeros(2, dtype=torch.float64)
    for vlm, merged in merge_pieces(Job(todo.config, canonical, info.shape, todo.weights[canonical], read)):
        stored = merged.to(DTYPES[info.dtype])
        if not is_finite(stored):
            for model, own in models:
                require_finite(model, own)
            raise CheckpointError(f"'{canonical}': the merge overflows {info.dtype}; give smaller weights")
        write_tensor(stream, stored)
        for after, before in chunks(merged, vlm):
            sums[1] += before @ before
            after -= before
            sums[0] += after @ after
    return sums


def _write_recipe(todo: MergePlan, folder: Path) -> None:
    section = todo.config.model_dump(mode="json")
    recipe = {
        **section,
        "weights_sha256": {name: model.sha256() for name, model in todo.models.items()},
        "merged": {name: todo.weights[name] for name in sorted(todo.canonical.values())},
        "copied": sorted(todo.vlm.tensors.keys() - todo.canonical.keys()),
    }
    write_json(folder / RECIPE, recipe)
    inputs = {name: model.path for name, model in todo.models.items()}
    original = original_vlm_sha256(todo.vlm.path)
    write_provenance(folder, "merge", config=section, inputs=inputs, original_vlm_sha256=original)

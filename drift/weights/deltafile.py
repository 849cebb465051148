"""A stored Δ: its tensors read lazily, its statistics, and how far a model went along it.

Symbols: Δ the prior, φ_VL the original multimodal model's text decoder, φ_t a trained one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from safetensors import safe_open
from torch import Tensor

from drift.ground.artifacts import PROVENANCE, content_sha256, read_json
from drift.ground.errors import CheckpointError, DataError, PriorError
from drift.weights.checkpoints import (
    Checkpoint,
    TensorInfo,
    indexed_files,
    indexed_tensors,
    original_vlm_sha256,
    read_header,
    read_pieces,
)
from drift.weights.finite import require_finite
from drift.weights.layout import layer_index, match_parameters, module_of
from drift.weights.mixture import AT_RUN_TIME, arranged
from drift.weights.streaming import dot, one_thread, progress

DELTA = "delta.safetensors"
INDEX = "delta.safetensors.index.json"
"""Which file holds which tensor, where Δ is in several, `delta-00001-of-00002.safetensors` and on."""
STATS = "delta_stats.json"
FORMAT = "drift-delta"


class TensorStats(TypedDict):
    """Of one tensor: ‖Δ‖₁, ‖Δ‖₂, ‖φ_VL‖₂, cos(φ_reason, φ_other) and ⟨φ_VL, Δ⟩."""

    l1: float
    l2: float
    vlm_l2: float
    cosine: float
    vlm_dot_delta: float
    numel: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DeltaFile:
    """A stored Δ, read lazily: `stats` by canonical name, and each tensor when it is asked for."""

    folder: Path
    direction: str
    modules: tuple[str, ...]
    original_vlm_sha256: str | None
    stats: dict[str, TensorStats]
    tensors: dict[str, TensorInfo]
    """Where each tensor lies, by canonical name."""

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder

    @property
    def names(self) -> list[str]:
        """Canonical names of all tensors."""
        return list(self.stats)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name → shape."""
        return {name: entry["shape"] for name, entry in self.stats.items()}

    @property
    def squared_l2(self) -> float:
        """‖Δ‖² over all tensors."""
        return math.fsum(entry["l2"] ** 2 for entry in self.stats.values())

    def tensor(self, name: str) -> Tensor:
        """The raw Δ of one canonical name, on the CPU. Raises PriorError if Δ has no such tensor."""
        if name not in self.stats:
            raise PriorError(f"{self.folder}: Δ has no tensor '{name}'")
        with safe_open(str(self.tensors[name].file), framework="pt") as file:
            return file.get_tensor(name)

    def pieces(self, name: str, elements: int) -> Iterator[Tensor]:
        """`read_pieces` of the raw Δ of one canonical name."""
        return read_pieces(self.tensors[name], name, elements)

    def sha256(self) -> str:
        """The hash of its file's contents; of several files, of their names and hashes."""
        files = sorted({info.file for info in self.tensors.values()})
        if files == [self.folder / DELTA]:
            return content_sha256(files[0])
        lines = "".join(f"{file.name}\0{content_sha256(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()


def load_delta(folder: Path) -> DeltaFile:
    """The Δ that `compute_delta` wrote into `folder`. Raises PriorError if it is absent, foreign or cut off."""
    try:
        index = folder / INDEX if (folder / INDEX).is_file() else None
        headers = {file.name: read_header(file) for file in (indexed_files(index) if index else [folder / DELTA])}
        tensors = indexed_tensors(index, headers) if index else headers[DELTA].tensors
        content, original = read_json(folder / STATS), read_json(folder / PROVENANCE).get("original_vlm_sha256")
    except (CheckpointError, DataError) as error:
        raise PriorError(f"{folder}: no usable Δ: {error}") from error
    formats = {header.metadata.get("format") for header in headers.values()}
    if formats != {FORMAT} or not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PriorError(f"{folder / DELTA}: safetensors, but no Δ; make one with `drift delta`")
    try:
        stats = {name: _stats_entry(entry) for name, entry in content["tensors"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PriorError(f"{folder / STATS}: an entry is incomplete ({error}); compute Δ again") from error
    stored = {name: info.shape for name, info in tensors.items()}
    if not stored or stored != {name: entry["shape"] for name, entry in stats.items()}:
        raise PriorError(f"{folder}: {DELTA} and {STATS} do not hold the same tensors; compute Δ again")
    return DeltaFile(
        folder, str(content.get("direction")), tuple(content.get("modules", ())), original, stats, dict(tensors)
    )


def projection(model: Path, delta: Path) -> float:
    """How far a model went towards the expert: ⟨φ_t − φ_VL, Δ⟩ / ‖Δ‖² over the tensors of Δ.

    0 at φ_VL; 1 at the expert where Δ = φ_reason − φ_VL. φ_VL itself is not read: ⟨φ_VL, Δ⟩ is in the statistics.
    Raises PriorError if Δ does not fit the model or belongs to another φ_VL, and CheckpointError for NaN in the model.
    """
    prior, checkpoint = load_delta(delta), arranged(Checkpoint(model), AT_RUN_TIME)
    if (model / PROVENANCE).is_file():
        require_made_from(prior, model)
    partners = match_parameters(checkpoint.shapes, prior.shapes)
    moved = []
    total = sum(checkpoint.tensors[partners[name]].size_bytes for name in prior.names)
    with one_thread(), progress("projection", total) as bar:
        for name, entry in prior.stats.items():
            moved.append(dot(checkpoint.tensor(partners[name]), prior.tensor(name)) - entry["vlm_dot_delta"])
            if not math.isfinite(moved[-1]):
                require_finite(checkpoint, partners[name])
                raise PriorError(f"{prior.folder}: '{name}' holds NaN or infinity; compute Δ again")
            bar.update(checkpoint.tensors[partners[name]].size_bytes)
    return math.fsum(moved) / prior.squared_l2


def require_made_from(prior: DeltaFile, model: Path) -> None:
    """Raise PriorError unless ``model`` is the original φ_VL of Δ, or its provenance says that it was made from it."""
    made_from, wanted = original_vlm_sha256(model), prior.original_vlm_sha256
    if wanted is not None and made_from != wanted:
        raise PriorError(
            f"{model}: made from another φ_VL ({made_from[:12]}) than the Δ in {prior.folder} ({wanted[:12]}); "
            "start from φ_VL itself or from a model trained from it, or compute Δ again"
        )


@dataclass(frozen=True)
class LayerRow:
    """Δ in one module of one layer (None: outside the layers): ‖Δ‖/‖φ_VL‖, and the mean cosine by elements."""

    layer: int | None
    module: str
    relative_l2: float
    cosine: float

    @property
    def place(self) -> str:
        """The layer's number, a dash outside the layers."""
        return "–" if self.layer is None else str(self.layer)


def layer_table(stats: Mapping[str, TensorStats]) -> list[LayerRow]:
    """Norm and direction of Δ per layer and module, as in the paper's Figure 2."""
    groups: dict[tuple[int | None, str], list[TensorStats]] = {}
    for name, entry in stats.items():
        groups.setdefault((layer_index(name), module_of(name)), []).append(entry)
    return [
        LayerRow(layer, module, relative_l2(group), mean_cosine(group)) for (layer, module), group in groups.items()
    ]


def relative_l2(entries: Collection[TensorStats]) -> float:
    """‖Δ‖/‖φ_VL‖ over some tensors together."""
    vlm = math.hypot(*(entry["vlm_l2"] for entry in entries))
    return math.hypot(*(entry["l2"] for entry in entries)) / vlm if vlm else math.inf


def mean_cosine(entries: Collection[TensorStats]) -> float:
    """The mean of the tensors' cosines, weighted by their elements."""
    return sum(entry["cosine"] * entry["numel"] for entry in entries) / sum(entry["numel"] for entry in entries)


def _stats_entry(entry: dict[str, Any]) -> TensorStats:
    stats = TensorStats(
        l1=float(entry["l1"]),
        l2=float(entry["l2"]),
        vlm_l2=float(entry["vlm_l2"]),
        cosine=float(entry["cosine"]),
        vlm_dot_delta=float(entry["vlm_dot_delta"]),
        numel=int(entry["numel"]),
        shape=tuple(entry["shape"]),
    )
    numbers = (stats["l1"], stats["l2"], stats["vlm_l2"], stats["cosine"], stats["vlm_dot_delta"])
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is NaN or infinite")
    return stats

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
from drift.weights.naming.layout import layer_index, match_parameters, module_of
from drift.weights.storage.checkpoints import Checkpoint, original_vlm_sha256
from drift.weights.storage.files import indexed_files
from drift.weights.storage.finite import require_finite
from drift.weights.storage.forms import LEFT, RIGHT, SCALE, WHOLE, Form
from drift.weights.storage.headers import DTYPE_NAMES, TensorInfo, indexed_tensors, read_headers, read_pieces
from drift.weights.storage.mixture import AT_RUN_TIME, arranged
from drift.weights.storage.streaming import Sparsity, dot, mean_sparsity, one_thread, progress

DELTA = "delta.safetensors"
INDEX = "delta.safetensors.index.json"
"""Which file holds which tensor, where Δ is in several, `delta-00001-of-00002.safetensors` and on."""
STATS = "delta_stats.json"
FORMAT = "drift-delta"


class TensorStats(TypedDict):
    """Of one tensor as it is stored: ‖Δ‖₁, ‖Δ‖₂, ‖φ_VL‖₂, cos(φ_reason, φ_other) and ⟨φ_VL, Δ⟩.

    `full_l2` is ‖Δ‖₂ before a rank or 8 bits made it smaller, and `energy` = 1 − ‖Δ − stored‖²/‖Δ‖² what is left of it.
    `zeros` and `tiny` are its `Sparsity` before; None in a Δ of an older version.
    """

    l1: float
    l2: float
    vlm_l2: float
    cosine: float
    vlm_dot_delta: float
    full_l2: float
    energy: float
    zeros: float | None
    tiny: float | None
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
    parts: dict[str, dict[str, TensorInfo]]
    """Where the parts of each tensor lie, by canonical name and ending."""

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

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Where each tensor lies, by canonical name: its first part."""
        return {name: next(iter(parts.values())) for name, parts in self.parts.items()}

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size_bytes for parts in self.parts.values() for info in parts.values())

    def form(self, name: str) -> Form:
        """One canonical name as it is stored, on the CPU. Raises PriorError if Δ has no such tensor."""
        if name not in self.parts:
            raise PriorError(f"{self.folder}: Δ has no tensor '{name}'")
        found = {}
        for ending, info in self.parts[name].items():
            with safe_open(str(info.file), framework="pt") as file:
                found[ending] = file.get_tensor(name + ending)
        return Form(found)

    def tensor(self, name: str) -> Tensor:
        """The raw Δ of one canonical name, on the CPU: `Form.whole`. Raises PriorError if Δ has no such tensor."""
        return self.form(name).whole()

    def pieces(self, name: str, elements: int) -> Iterator[Tensor]:
        """`read_pieces` of the raw Δ of one canonical name; one that is not stored whole is made first."""
        if self.parts[name].keys() == {WHOLE}:
            return read_pieces(self.parts[name][WHOLE], name, elements)
        return iter(self.tensor(name).flatten().split(elements))

    def sha256(self) -> str:
        """The hash of its file's contents; of several files, of their names and hashes."""
        files = sorted({info.file for parts in self.parts.values() for info in parts.values()})
        if files == [self.folder / DELTA]:
            return content_sha256(files[0])
        lines = "".join(f"{file.name}\0{content_sha256(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()


def load_delta(folder: Path) -> DeltaFile:
    """The Δ that `compute_delta` wrote into `folder`. Raises PriorError if it is absent, foreign or cut off."""
    try:
        index = folder / INDEX if (folder / INDEX).is_file() else None
        headers = read_headers(folder, indexed_files(index) if index else [folder / DELTA])
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
    parts = {name: _parts_of(name, tensors) for name in stats}
    whole = {name: _shape_of(found) for name, found in parts.items()}
    named = {name + ending for name, found in parts.items() for ending in found}
    if not named or named != tensors.keys() or whole != {name: entry["shape"] for name, entry in stats.items()}:
        raise PriorError(f"{folder}: {DELTA} and {STATS} do not hold the same tensors; compute Δ again")
    return DeltaFile(folder, str(content.get("direction")), tuple(content.get("modules", ())), original, stats, parts)


def _parts_of(name: str, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """By their endings; a `scale` only beside 8 bits, since a model may have a tensor of that name."""
    endings = [WHOLE, LEFT, RIGHT]
    if name in tensors and tensors[name].dtype not in DTYPE_NAMES:
        endings = [WHOLE, SCALE]
    elif name in tensors:
        endings = [WHOLE]
    return {ending: tensors[name + ending] for ending in endings if name + ending in tensors}


def _shape_of(parts: Mapping[str, TensorInfo]) -> tuple[int, ...] | None:
    """Of the tensor that the parts are of; None if they are of none."""
    shapes = {ending: info.shape for ending, info in parts.items()}
    if shapes.keys() == {LEFT, RIGHT}:
        (rows, rank), (same, columns) = shapes[LEFT], shapes[RIGHT]
        return (rows, columns) if rank == same else None
    fits = shapes.keys() == {WHOLE} or (shapes.keys() == {WHOLE, SCALE} and shapes[SCALE] == shapes[WHOLE][:-1])
    return shapes[WHOLE] if fits else None


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
            bar.advance(checkpoint.tensors[partners[name]].size_bytes)
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
    """Δ in one module of one layer (None: outside the layers): ‖Δ‖, ‖Δ‖/‖φ_VL‖, and the mean cosine by elements.

    `energy` and `sparsity` are those of the functions of this name.
    """

    layer: int | None
    module: str
    l2: float
    relative_l2: float
    cosine: float
    energy: float
    sparsity: Sparsity | None

    @property
    def place(self) -> str:
        """The layer's number, a dash outside the layers."""
        return "–" if self.layer is None else str(self.layer)


def layer_table(stats: Mapping[str, TensorStats]) -> list[LayerRow]:
    """Norm and direction of Δ per layer and module, as in the paper's Figure 2."""
    groups: dict[tuple[int | None, str], list[TensorStats]] = {}
    for name, entry in stats.items():
        groups.setdefault((layer_index(name), module_of(name)), []).append(entry)
    return [_row(layer, module, group) for (layer, module), group in groups.items()]


def _row(layer: int | None, module: str, group: Collection[TensorStats]) -> LayerRow:
    l2 = math.hypot(*(entry["l2"] for entry in group))
    return LayerRow(layer, module, l2, relative_l2(group), mean_cosine(group), energy(group), sparsity_of(group))


def energy(entries: Collection[TensorStats]) -> float:
    """What is left of ‖Δ‖² over some tensors together: 1 − ‖Δ − stored‖²/‖Δ‖²."""
    squares = [entry["full_l2"] ** 2 for entry in entries]
    kept = math.fsum(entry["energy"] * square for entry, square in zip(entries, squares, strict=True))
    return kept / total if (total := math.fsum(squares)) else 1.0


def sparsity_of(entries: Collection[TensorStats]) -> Sparsity | None:
    """Of some tensors together; None where it was not taken."""
    found = [
        (Sparsity(entry["zeros"], entry["tiny"]), entry["numel"])
        for entry in entries
        if entry["zeros"] is not None and entry["tiny"] is not None
    ]
    return mean_sparsity(found) if len(found) == len(entries) else None


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
        full_l2=float(entry.get("full_l2", entry["l2"])),
        energy=float(entry.get("energy", 1.0)),
        zeros=entry.get("zeros"),
        tiny=entry.get("tiny"),
        numel=int(entry["numel"]),
        shape=tuple(entry["shape"]),
    )
    numbers = [value for value in stats.values() if isinstance(value, float)]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is NaN or infinite")
    return stats

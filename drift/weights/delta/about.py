"""What a Δ says of itself: the models it was made of, its form and size, what is left of it, a table and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.ground.artifacts import read_json
from drift.weights.delta.deltafile import STATS, DeltaFile, LayerRow, energy, relative_l2, sparsity_of
from drift.weights.pairing import Pair, sampled_sparsity
from drift.weights.storage.headers import read_header

FIGURE = "delta.svg"
LAYERS = "layers.md"


@dataclass(frozen=True)
class DeltaFacts:
    """Of a whole Δ; numbers with four digits. `zeros` and `tiny` are shares; '–' in a Δ of an older version."""

    folder: str
    direction: str
    modules: str
    layers: str
    form: str
    models: list[str]
    task_vectors: list[str]
    tensors: int
    elements: int
    bytes: int
    l2: float
    relative_l2: float
    energy: float
    zeros: float | str
    tiny: float | str


def describe(prior: DeltaFile) -> DeltaFacts:
    """The facts of a stored Δ, from its header and its statistics; no tensor is read."""
    first = next(iter(prior.tensors.values()))
    metadata, stats = read_header(first.file).metadata, prior.stats.values()
    sparse = sparsity_of(stats)
    return DeltaFacts(
        folder=str(prior.folder),
        direction=prior.direction,
        modules=", ".join(prior.modules),
        layers=metadata.get("layers", "all"),
        form=f"rank {metadata['rank']}" if "rank" in metadata else metadata.get("dtype", first.dtype),
        models=[_model(one) for one in json.loads(metadata.get("models", "[]"))],
        task_vectors=[_vector_line(one) for one in read_json(prior.folder / STATS).get("task_vectors", ())],
        tensors=len(prior.names),
        elements=sum(entry["numel"] for entry in stats),
        bytes=prior.size_bytes,
        l2=_four(math.sqrt(prior.squared_l2)),
        relative_l2=_four(relative_l2(stats)),
        energy=_four(energy(stats)),
        zeros=_four(sparse.zeros) if sparse else "–",
        tiny=_four(sparse.tiny) if sparse else "–",
    )


def task_vector(pair: Pair) -> dict[str, Any]:
    """How sparse one expert's difference is, from a sample of its projections."""
    return {"expert": pair.expert.name, "minus": pair.other.name, **sampled_sparsity(pair.expert, pair.other)._asdict()}


def draw(folder: Path, rows: Sequence[LayerRow]) -> None:
    """The table of every layer and module, and what of it is in layers as a picture."""
    from drift.ground import drawing  # matplotlib takes a second

    lines = ["| layer | module | ‖Δ‖/‖φ_VL‖ | cosine |", "|---|---|---|---|"]
    lines += [f"| {row.place} | {row.module} | {row.relative_l2:.4f} | {row.cosine:.4f} |" for row in rows]
    (folder / LAYERS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    inside = [row for row in rows if row.layer is not None]
    modules = {module: [row for row in inside if row.module == module] for module in {r.module: None for r in inside}}
    values = [
        (module, [r.layer or 0 for r in own], [r.relative_l2 for r in own], [r.cosine for r in own])
        for module, own in modules.items()
    ]
    if values:
        (folder / FIGURE).write_text(drawing.layers(values), encoding="utf-8")


def _model(entry: dict[str, Any]) -> str:
    revision = f"@{entry['revision']}" if entry["revision"] else ""
    return f"{entry['name']}{revision} ({entry['sha256'][:12]})"


def _vector_line(entry: dict[str, Any]) -> str:
    return f"{entry['expert']} − {entry['minus']}: {entry['zeros']:.1%} zeros, {entry['tiny']:.1%} tiny (sampled)"


def _four(number: float) -> float:
    return float(f"{number:.4g}")

"""Parts of the page that come from other steps' folders: the training, the data, the prior."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from drift.gate.report import plots
from drift.gate.report.render import figure
from drift.gate.report.summary import Folders, Summary
from drift.ground.artifacts import PROVENANCE, read_json
from drift.ground.errors import DataError

Figure = tuple[str, Markup]
"""Title and drawing."""

CURVES = {
    "loss": "loss",
    "held_out_loss": "loss on rows held out",
    "perception_right": "perception on rows held out",
    "projection": "projection towards the expert",
    "cos_mean": "mean cos(g, Δ)",
}
"""What is drawn of a training's steps: all arms on one scale."""


def results_figures(summary: Summary, decision: Mapping[str, Any]) -> list[Figure]:
    """Each role's mean of every model, with the least that the gate asked of the candidate."""
    before = summary.rows[0]
    asked = {check["name"]: check["threshold"] for check in decision["checks"]}
    least = {"reasoning": asked["reasoning_gain"], "perception": -asked["perception_loss"]}
    drawn = []
    for role, points in least.items():
        rows = [(row.label, mean) for row in summary.rows if (mean := getattr(row, role)) is not None]
        mean = getattr(before, role)
        if mean is not None:
            drawn.append((role, figure(plots.intervals(rows, mean.mean + points, role, summary.candidate))))
    return drawn


def training_figures(arms: Mapping[str, Folders]) -> list[Figure]:
    """The quantities that some arm logged, and where each arm's gradients pointed, layer by layer."""
    known = {name: _history(record) for name, (_, record) in arms.items() if record is not None}
    histories = {name: rows for name, rows in known.items() if rows}
    drawn = [(title, plots.curves(histories, key)) for key, title in CURVES.items()]
    layers = [
        (f"cos(g, Δ) of {name}, by layer", (record / "cosines.svg").read_text(encoding="utf-8"))
        for name, (_, record) in arms.items()
        if record is not None and (record / "cosines.svg").is_file()
    ]
    return [(title, figure(svg)) for title, svg in [*drawn, *layers] if svg is not None]


def _history(record: Path) -> list[dict[str, float]]:
    """The logged steps of an arm; none where it only merged."""
    path = record / "history.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON lines ({error}); make the arm again") from error


def funnel(training_set: Path) -> dict[str, Any]:
    """How many generations remain after each stage."""
    stages = read_json(training_set / "funnel.json")
    counts = [("generations", stages[0]["in"]), *((stage["stage"], stage["out"]) for stage in stages)]
    return {"stages": stages, "figure": figure(plots.funnel(counts))}


def named_deltas(deltas: Path | None) -> list[Path]:
    """The folders with statistics of a Δ."""
    return sorted(path.parent for path in deltas.glob("*/delta_stats.json")) if deltas else []


def delta_sections(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """‖Δ‖/‖φ_VL‖ per layer and module of every Δ, on one scale; what is in no layer is listed."""
    contents = {folder.name: read_json(folder / "delta_stats.json") for folder in folders}
    ratios = {name: _ratios(content["tensors"]) for name, content in contents.items()}
    most = max((value for one in ratios.values() for value in one.values() if math.isfinite(value)), default=0.0)
    return [
        {
            "name": name,
            "direction": contents[name].get("direction", ""),
            "figure": _heatmap(one, most),
            "outside": {module: ratio for (layer, module), ratio in one.items() if layer is None},
        }
        for name, one in ratios.items()
    ]


Ratios = Mapping[tuple[int | None, str], float]


def _ratios(tensors: Mapping[str, Mapping[str, float]]) -> Ratios:
    """Weight and bias together."""
    squares: dict[tuple[int | None, str], np.ndarray[Any, Any]] = {}
    for name, entry in tensors.items():
        place = _place(name)
        squares[place] = squares.get(place, 0) + np.array([entry["l2"], entry["vlm_l2"]]) ** 2
    return {place: float(np.sqrt(delta / vlm)) if vlm else float("nan") for place, (delta, vlm) in squares.items()}


def _heatmap(ratios: Ratios, most: float) -> Markup | None:
    layers = sorted({layer for layer, _ in ratios if layer is not None})
    modules = list(dict.fromkeys(module for layer, module in ratios if layer is not None))
    grid = np.array([[ratios.get((layer, module), np.nan) for layer in layers] for module in modules])
    return figure(plots.heatmap(modules, layers, grid, most)) if layers else None


def _place(tensor: str) -> tuple[int | None, str]:
    """`layers.3.self_attn.q_proj.weight` → (3, `self_attn.q_proj`)."""
    parts = tensor.removesuffix(".weight").removesuffix(".bias").split(".")
    return (int(parts[1]), ".".join(parts[2:])) if parts[0] == "layers" else (None, ".".join(parts))


def provenance_row(name: str, folder: Path) -> dict[str, Any]:
    """Where one of the report's inputs comes from."""
    path = folder / PROVENANCE
    return {"name": name, **(read_json(path) if path.is_file() else {"step": "–", "inputs": []})}

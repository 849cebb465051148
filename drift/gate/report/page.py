"""The report: one HTML page that needs no other file, with plots, samples and provenance, and the summary beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.evaluate.samples import Sample, read_examples, read_samples
from drift.evaluate.scores import read_scores
from drift.gate.report.summary import Folders, Summary, summarize
from drift.ground.artifacts import PROVENANCE, read_json, staged, write_json, write_provenance
from drift.ground.errors import DataError

__all__ = ["Summary", "make_report", "summarize", "write_report"]

PAGE = "report.html"
SUMMARY = "summary.json"


def make_report(
    *,
    baseline: Path,
    arms: Mapping[str, Folders],
    gate: Path,
    out: Path,
    training_set: Path | None = None,
    deltas: Path | None = None,
) -> Summary:
    """`summarize`, then `write_report`; the summary."""
    summary = summarize(baseline, arms, gate)
    write_report(out, summary, baseline=baseline, arms=arms, gate=gate, training_set=training_set, deltas=deltas)
    return summary


def write_report(
    out: Path,
    summary: Summary,
    *,
    baseline: Path,
    arms: Mapping[str, Folders],
    gate: Path,
    training_set: Path | None = None,
    deltas: Path | None = None,
    title: str = "DRIFT",
) -> None:
    """Write `report.html`, which needs no other file, and `summary.json` into ``out``.

    Sections whose input is not given are left out. Raises DataError for an input that cannot be read.
    """
    named = _named_deltas(deltas)
    folders = {"baseline": baseline, **{f"scores {name}": scores for name, (scores, _) in arms.items()}, "gate": gate}
    folders |= {"training set": training_set} if training_set else {}
    folders |= {f"delta {path.name}": path for path in named}
    content = {
        "title": title,
        "summary": summary,
        "decision": read_json(gate / "gate.json"),
        "results_figure": _results_figure(summary, gate),
        "training_figures": _training_figures(arms),
        "funnel": _funnel(training_set) if training_set else None,
        "deltas": [_delta_section(path) for path in named],
        "examples": _examples(baseline, arms[summary.candidate][0]),
        "scores": read_scores(baseline),
        "provenance": [_provenance_row(name, path) for name, path in folders.items()],
    }
    with staged(out) as folder:
        (folder / PAGE).write_text(_render(content), encoding="utf-8")
        write_json(folder / SUMMARY, summary.to_json())
        write_provenance(folder, "report", config={"title": title}, inputs=folders)


def _render(content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = _number
    return environment.get_template("page.html.jinja").render(content)


def _number(value: float | None, form: str = ".1f") -> str:
    """A number with a true minus sign; an en dash where there is none."""
    return "–" if value is None else format(value, form).replace("-", "−")


def _results_figure(summary: Summary, gate: Path) -> str:
    from drift.gate.report import plots

    before = summary.rows[0]
    asked = {check["name"]: check["threshold"] for check in read_json(gate / "gate.json")["checks"]}
    reasoning = before.reasoning.mean + asked["reasoning_gain"] if before.reasoning else None
    perception = before.perception.mean - asked["perception_loss"] if before.perception else None
    return _svg_uri(
        plots.bars([(row.label, row.reasoning, row.perception) for row in summary.rows], reasoning, perception)
    )


def _training_figures(arms: Mapping[str, Folders]) -> list[tuple[str, str]]:
    """(title, image) of the quantities that some arm logged."""
    from drift.gate.report import plots

    histories = {name: _history(record) for name, (_, record) in arms.items() if record is not None}
    shown = {
        "loss": "loss",
        "held_out_loss": "loss on rows held out",
        "perception_right": "perception on rows held out",
        "projection": "projection towards the expert",
    }
    drawn = [(title, plots.curves(histories, key, title)) for key, title in shown.items()]
    layers = [
        (f"cos(g, Δ) of {name}", (record / "cosines.svg").read_text(encoding="utf-8"))
        for name, (_, record) in arms.items()
        if record is not None and (record / "cosines.svg").is_file()
    ]
    return [(title, _svg_uri(svg)) for title, svg in [*drawn, *layers] if svg is not None]


def _history(record: Path) -> list[dict[str, float]]:
    """The logged steps of an arm; none where it only merged."""
    path = record / "history.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON lines ({error}); make the arm again") from error


def _funnel(training_set: Path) -> dict[str, Any]:
    from drift.gate.report import plots

    stages = read_json(training_set / "funnel.json")
    counts = [("generations", stages[0]["in"]), *((stage["stage"], stage["out"]) for stage in stages)]
    return {"stages": stages, "figure": _svg_uri(plots.funnel(counts))}


def _named_deltas(deltas: Path | None) -> list[Path]:
    return sorted(path.parent for path in deltas.glob("*/delta_stats.json")) if deltas else []


def _delta_section(folder: Path) -> dict[str, Any]:
    """‖Δ‖/‖φ_VL‖ per layer and module, weight and bias together; what is in no layer is listed."""
    import numpy as np

    from drift.gate.report import plots

    content = read_json(folder / "delta_stats.json")
    squares: dict[tuple[int | None, str], np.ndarray[Any, Any]] = {}
    for name, entry in content["tensors"].items():
        layer, module = _place(name)
        squares[layer, module] = squares.get((layer, module), 0) + np.array([entry["l2"], entry["vlm_l2"]]) ** 2
    ratios = {place: float(np.sqrt(delta / vlm)) if vlm else float("nan") for place, (delta, vlm) in squares.items()}
    layers = sorted({layer for layer, _ in ratios if layer is not None})
    modules = list(dict.fromkeys(module for layer, module in ratios if layer is not None))
    grid = np.array([[ratios.get((layer, module), np.nan) for layer in layers] for module in modules])
    return {
        "name": folder.name,
        "direction": content.get("direction", ""),
        "figure": _svg_uri(plots.heatmap(modules, layers, grid)) if layers else None,
        "outside": {module: ratio for (layer, module), ratio in ratios.items() if layer is None},
    }


def _place(tensor: str) -> tuple[int | None, str]:
    """`layers.3.self_attn.q_proj.weight` → (3, `self_attn.q_proj`)."""
    parts = tensor.removesuffix(".weight").removesuffix(".bias").split(".")
    return (int(parts[1]), ".".join(parts[2:])) if parts[0] == "layers" else (None, ".".join(parts))


def _examples(baseline: Path, candidate: Path) -> list[dict[str, Any]]:
    """The pictured questions with both models' answers."""
    before, after = (_by_key(read_samples(folder)) for folder in (baseline, candidate))
    return [
        {"image": _uri(example.image, "png"), "before": before[key], "after": after[key]}
        for example in read_examples(candidate)
        if (key := (example.benchmark, example.index)) in before and key in after
    ]


def _by_key(samples: Sequence[Sample]) -> dict[tuple[str, str], Sample]:
    return {(sample.benchmark, sample.index): sample for sample in samples}


def _provenance_row(name: str, folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    return {"name": name, **(read_json(path) if path.is_file() else {"step": "–", "inputs": []})}


def _svg_uri(svg: str) -> str:
    return _uri(svg.encode(), "svg+xml")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

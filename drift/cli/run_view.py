"""A run while it goes on, and what it ended with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from drift.cli.options import about_runs
from drift.cli.show import (
    findings_as_json,
    mean_text,
    out,
    show_json,
    show_pairs,
    show_table,
    show_text,
    show_verdict,
)
from drift.ground.findings import Finding

TYPED = ("tracking", "again")
"""Of the places, what is for a person alone."""


class RunView:
    """The steps of a run as they go, with durations; then the closing table."""

    def __init__(self, *, quiet: bool) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        terminal = Console(stderr=True, highlight=False)
        self._live = Progress(*columns, console=terminal, transient=True, disable=quiet or not terminal.is_terminal)
        self._quiet = quiet
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def event(self, event: Any) -> None:
        """One `StepEvent`: a step started, finished, came from the cache, or failed."""
        name = f"{event.step} {event.arm}".strip()
        if event.state == "started":
            self._running[name] = self._live.add_task(name)
            if self._live.disable and not self._quiet:  # in a log, where an arm may be silent for hours
                self._live.console.print(f"… {name:<28} started")
            return
        if name in self._running:
            self._live.remove_task(self._running.pop(name))
        if not self._quiet:
            mark, colour = {"finished": ("✓", "green"), "cached": ("≡", "cyan"), "failed": ("✗", "red")}[event.state]
            duration = "cached" if event.state == "cached" else f"{event.seconds:.1f} s"
            self._live.console.print(f"[{colour}]{mark}[/] {name:<28} {duration:>8}")
            if event.state == "failed" and event.message and event.log is None:  # here, the last line has it
                self._live.console.print(f"  [red]{escape(event.message)}[/]", soft_wrap=True)
            for warning in event.warnings:
                self._live.console.print(f"  [yellow]![/] {escape(warning)}", soft_wrap=True)

    def note(self, text: str) -> None:
        """What is not about a step: where the run is, a server that is away, a source that lags."""
        self._live.console.print(f"[yellow]![/] {escape(text)}", soft_wrap=True)

    def close(self, result: Any, *, as_json: bool) -> None:
        """What the run found, and where everything is."""
        show_result(result, as_json)


def show_result(result: Any, as_json: bool) -> None:
    """A finished run: the table, the gate's verdict and its reasons, and the places."""
    if as_json:
        show_json(json.dumps(_result_as_json(result)))
        return
    show_summary(result.summary)
    show_verdict(result.gate["candidate"], result.passed, result.gate["checks"])
    show_places(_places(result))


def show_places(places: Mapping[str, str]) -> None:
    """Where things are, each on its line."""
    show_pairs(places.items(), least=len("registered model"))


def show_summary(summary: dict[str, Any]) -> None:
    """Method × benchmark, with the means, their intervals, and how far each model went towards the expert."""
    rows = summary["rows"]
    benchmarks = {name: [f"{row['benchmarks'][name]:.1f}" for row in rows] for name in summary["benchmarks"]}
    means = {role: [mean_text(row[role]) for row in rows] for role in ("reasoning", "perception")}
    kept = {"retained": [{True: "yes", False: "no", None: ""}[row["retained"]] for row in rows]}
    _show_models(summary, means | kept | _projections(rows))
    out.print("percent right, mean (interval); →Δ: projection along Δ, 1 is the expert")
    _show_models(summary, benchmarks)
    out.print("percent right")


def _show_models(summary: dict[str, Any], columns: dict[str, list[str]]) -> None:
    heads, labels = ["model", *columns], [row["label"] for row in summary["rows"]]
    rows = list(zip(labels, *columns.values(), strict=True))
    show_table(heads, rows, right=heads[1:], bold=lambda cells: cells[0] == summary["candidate"])


def _projections(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    deltas = sorted({name for row in rows for name in row["projection"]})
    return {
        f"→{delta}": [f"{row['projection'][delta]:.2f}" if delta in row["projection"] else "" for row in rows]
        for delta in deltas
    }


def _places(result: Any) -> dict[str, str]:
    if _on_cluster(result):
        return {"run": result.url, **({"MLflow": result.mlflow} if result.mlflow else {})}
    registered, runs = result.registered, result.folder.parent
    model = f"{registered['model']} version {registered['version']}" if registered else "none: the gate refused"
    alias = {"champion": registered["alias"]} if registered and "alias" in registered else {}
    return {
        "run": str(result.folder),
        "again": about_runs(f"drift runs show {result.folder.name}", runs),
        "MLflow": result.mlflow or f"{result.mlflow_uri}  ({about_runs('drift ui', runs)})",
        "tracking": result.missing or "complete",
        "registered model": model,
        **alias,
        "report": str(result.report),
    }


def _on_cluster(result: Any) -> bool:
    return hasattr(result, "url")


def _result_as_json(result: Any) -> dict[str, Any]:
    if _on_cluster(result):
        return asdict(result)
    return {
        "skipped": False,
        "passed": result.passed,
        **{name.replace(" ", "_").lower(): place for name, place in _places(result).items() if name not in TYPED},
        "mlflow_run_id": result.mlflow_run_id,
        "not_in_mlflow": result.missing,
        "registered": result.registered,
        "steps": [asdict(step) for step in result.steps],
        "summary": result.summary,
    }


def show_cluster_run(run: Any, *, as_json: bool) -> None:
    """How a run on the cluster ended and what its gate said; every address whole."""
    if as_json:
        show_json(json.dumps(asdict(run)))
        return
    show_text(f"run {run.run_id} ({run.name}): {run.state}")
    if run.unseen:
        show_text(f"some steps could not be seen: {run.unseen}")
    if run.gate:
        winner = f"{run.winner} " if run.winner else ""
        verb = "was refused" if run.gate == "refused" else "passed"
        show_text(f"gate: {winner}{verb}{': ' + run.gate_reasons if run.gate_reasons else ''}")
    elif run.state == "SUCCEEDED":
        asked = "what the run told MLflow has none" if run.mlflow else "MLflow has it; set MLFLOW_TRACKING_URI"
        show_text(f"gate: its verdict is not known here ({asked})")
    if run.registered or run.gate == "refused":
        show_text(f"registered model  {run.registered or 'none: the gate refused'}")
    show_places(_places(run))


def show_rehearsal(rehearsal: Any) -> None:
    """What was replaced, what ran, and whether registering was reached; of a run on a cluster, its page."""
    width = max(map(len, rehearsal.replaced))
    for key, values in rehearsal.replaced.items():
        before, after = (json.dumps(value, ensure_ascii=False) for value in values)
        show_text(f"replaced  {key:<{width}}  {before} → {after}")
    show_text(f"rehearsed: all {rehearsal.steps} planned steps ran")
    show_places(_places(rehearsal.result))


def rehearsal_as_json(findings: Sequence[Finding], rehearsal: Any) -> str:
    """The findings, and of a rehearsal its steps, what it replaced, and what it registered."""
    found = json.loads(findings_as_json(findings))
    ran = {"replaced": rehearsal.replaced, **_result_as_json(rehearsal.result)} if rehearsal else {}
    return json.dumps({**found, **ran})

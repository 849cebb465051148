"""What a person sees in the terminal: reports, the live list of steps, the closing table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

out = Console(highlight=False)
"""Results go to standard output; progress goes to standard error."""


class Report(Protocol):
    """What every step returns."""

    def metrics(self) -> dict[str, float]:
        """Flat names and numbers."""


def show_text(text: str) -> None:
    """One line of plain output."""
    out.print(text, markup=False, soft_wrap=True)


def show_json(text: str) -> None:
    """JSON, indented."""
    out.print(json.dumps(json.loads(text), indent=2, ensure_ascii=False), markup=False, soft_wrap=True)


def show_report(report: Report, folder: Path, as_json: bool) -> None:
    """A step's numbers and where its output is."""
    numbers = report.metrics()
    if as_json:
        show_json(json.dumps({"out": str(folder), **numbers}))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in numbers.items():
        table.add_row(name, number(value))
    table.add_row("written to", str(folder))
    out.print(table)


def number(value: Any) -> str:
    """A number as a person writes it: whole numbers whole, others with four digits."""
    return f"{int(value)}" if float(value).is_integer() else f"{value:.4g}"


class RunView:
    """The steps of a run as they go, with durations; then the closing table."""

    def __init__(self, *, quiet: bool) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._live = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True, disable=quiet)
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
            return
        if name in self._running:
            self._live.remove_task(self._running.pop(name))
        if not self._quiet:
            mark, colour = {"finished": ("✓", "green"), "cached": ("≡", "cyan"), "failed": ("✗", "red")}[event.state]
            duration = "cached" if event.state == "cached" else f"{event.seconds:.1f} s"
            self._live.console.print(f"[{colour}]{mark}[/] {name:<28} {duration:>8}")

    def close(self, result: Any, *, as_json: bool) -> None:
        """What the run found, and where everything is."""
        if as_json:
            show_json(json.dumps(_result_as_json(result)))
            return
        out.print(_closing_table(result.summary))
        out.print(f"[bold]{'passed' if result.passed else 'refused'}[/]  {result.summary['verdict']}")
        places = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, place in _places(result).items():
            places.add_row(name, place)
        out.print(places)


def _closing_table(summary: dict[str, Any]) -> Table:
    """Method × benchmark, with the means, their intervals, and how far each model went towards the expert."""
    deltas = sorted({name for row in summary["rows"] for name in row["projection"]})
    table = Table(box=SIMPLE_HEAD, caption="percent right, mean [interval]; → projection along each Δ: 1 is the expert")
    table.add_column("model")
    heads = [*summary["benchmarks"], "reasoning", "perception", "retained", *(f"→ {name}" for name in deltas)]
    for head in heads:
        table.add_column(head, justify="right")
    for row in summary["rows"]:
        name = f"[bold]{row['label']}[/]" if row["label"] == summary["candidate"] else row["label"]
        scores = [f"{row['benchmarks'][benchmark]:.1f}" for benchmark in summary["benchmarks"]]
        table.add_row(
            name,
            *scores,
            _mean(row["reasoning"]),
            _mean(row["perception"]),
            {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row["retained"]],
            *(f"{row['projection'][delta]:.2f}" if delta in row["projection"] else "" for delta in deltas),
        )
    return table


def _mean(mean: dict[str, float]) -> str:
    return f"{mean['mean']:.1f} [dim]\\[{mean['low']:.0f}, {mean['high']:.0f}][/]"


def _places(result: Any) -> dict[str, str]:
    registered = result.registered
    model = f"{registered['model']} version {registered['version']}" if registered else "none: the gate refused"
    return {
        "report": str(result.report),
        "run": str(result.folder),
        "MLflow": f"{result.mlflow_uri}  (drift ui)",
        "registered model": model,
    }


def _result_as_json(result: Any) -> dict[str, Any]:
    return {
        "passed": result.passed,
        **{name.replace(" ", "_").lower(): place for name, place in _places(result).items()},
        "mlflow_run_id": result.mlflow_run_id,
        "registered": result.registered,
        "steps": [asdict(step) for step in result.steps],
        "summary": result.summary,
    }

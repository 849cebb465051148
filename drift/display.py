"""What a person sees in the terminal: reports, the live list of steps, the closing table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from drift.catalog import ROLES
from drift.findings import Finding
from drift.steps import Report

if TYPE_CHECKING:
    from drift.cost import Assumptions, Phase, Total
    from drift.evaluate import EvaluateReport
    from drift.sizing import Disk, Memory
    from drift.statistics import Comparison

out = Console(highlight=False)
"""Results go to standard output; progress goes to standard error."""

COUNTS = ("n", "failed", "truncated", "unparsed")
"""Of a benchmark's questions, beside its scores."""

WIDE = 120
"""Characters that the closing table takes with a column per benchmark."""


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


def show_scores(report: EvaluateReport, folder: Path, as_json: bool) -> None:
    """A row per headline column, and the mean of each role's; with `as_json` the flat numbers."""
    if as_json:
        show_report(report, folder, as_json)
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("benchmark", "percent right", *COUNTS):
        table.add_column(head, justify="left" if head == "benchmark" else "right", no_wrap=True)
    for score in report.scores.benchmarks.values():
        counts = [str(getattr(score, count)) for count in COUNTS]
        for name, mean in score.columns.items():
            table.add_row(name, _mean(asdict(mean)), *counts)
    for role in ROLES:
        if (average := report.scores.role(role)) is not None:
            table.add_row(f"mean of {role}", _mean(asdict(average)), style="bold")
    out.print(table)
    show_text(f"written to {folder}")


def show_plan(summary: Mapping[str, Any], as_json: bool) -> None:
    """What a dry run would do: one row per entry, lists as their lengths, warnings written out."""
    if as_json:
        show_json(json.dumps(summary))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in summary.items():
        if name in ("models", "warnings"):
            for line in value:
                table.add_row(name.removesuffix("s"), line)
        elif name != "pairs":
            table.add_row(name.replace("_", " "), _amount(name, value))
    out.print(table)


def _amount(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return f"{value / 1e9:,.3f} GB"
    return str(len(value)) if isinstance(value, list) else str(value)


def show_record(record: Any, as_json: bool) -> None:
    """One dataclass: its fields by name."""
    if as_json:
        show_json(json.dumps(asdict(record)))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in asdict(record).items():
        table.add_row(name.replace("_", " "), escape(_cell(value)))
    out.print(table)


def show_records(records: Sequence[Any], as_json: bool) -> None:
    """Dataclasses of one kind, a row each."""
    if as_json:
        show_json(json.dumps([asdict(record) for record in records]))
        return
    rows = [asdict(record) for record in records]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in rows[0] if rows else ("none",):
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    out.print(table)


def show_unchanged(same: Any, as_json: bool) -> None:
    """The run that a retraining would only repeat."""
    if as_json:
        show_json(json.dumps({"skipped": True, **asdict(same)}))
    else:
        show_text(f"nothing changed since {same.run} ({same.started}); skipped (--force runs anyway)")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def show_forecast(
    arms: Sequence[Any],
    memory: Sequence[Memory],
    cost: Sequence[Phase],
    disk: Disk,
    assumed: Assumptions,
    as_json: bool,
) -> None:
    """What each arm will do, how far it can go, what its training takes of each GPU, and what the run costs."""
    from drift.cost import total  # torch, which other commands do not need

    sums = total(cost)
    if as_json:
        lists = {"arms": arms, "memory": memory, "cost": cost}
        listed = {name: [asdict(entry) for entry in entries] for name, entries in lists.items()}
        totals = {name: asdict(one) for name, one in sums.items()}
        more = {"total": totals, "assumed": assumed.model_dump(mode="json"), "disk": asdict(disk)}
        show_json(json.dumps(listed | more))
        return
    out.print(_arms(arms))
    if memory:
        out.print(_memory(memory))
    out.print(_cost(cost, sums, assumed))
    show_text(str(disk))


def _arms(arms: Sequence[Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("arm", "does", "steps", "sum of rates", ""):
        table.add_column(head, justify="right" if head in ("steps", "sum of rates") else "left")
    for arm in arms:
        trains = (str(arm.steps), f"{arm.sum_of_rates:.3g}") if arm.steps else ("", "")
        table.add_row(arm.arm, arm.does, *trains, arm.remark)
    return table


def _memory(memory: Sequence[Memory]) -> Table:
    caption = "GB per GPU of a full fine-tuning in bf16: weights, gradients, optimizer; activations come on top"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("")
    for ranks in memory[0].bytes_per_rank:
        table.add_column(f"{ranks} GPU{'s' if ranks > 1 else ''}", justify="right")
    for stage in memory:
        table.add_row(f"ZeRO-{stage.stage}", *(f"{size / 1e9:.3g}" for size in stage.bytes_per_rank.values()))
    return table


def _cost(phases: Sequence[Phase], sums: Mapping[str, Total], assumed: Assumptions) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_assumptions(assumed), caption_justify="left")
    for head in ("phase", "what", "M tokens", "PFLOP", "GPUs", "hours"):
        table.add_column(head, justify="left" if head in ("phase", "what") else "right", no_wrap=True)
    if any(phase.last_hours is not None for phase in phases):
        table.add_column("last run", justify="right", no_wrap=True)
    for phase in phases:
        table.add_row(*_phase(phase)[: len(table.columns)])
    tokens, flop, hours = _summed(sums["tokens"], 1e6), _summed(sums["training_flop"], 1e15), _summed(sums["hours"])
    tokens = _bound(tokens, any(phase.at_most for phase in phases))
    table.add_row("total", "", tokens, flop, "", hours, style="bold")
    return table


def _phase(phase: Phase) -> list[str]:
    tokens = _bound(_short(phase.tokens, 1e6), phase.at_most and phase.tokens is not None)
    flop = "" if phase.training_flop == 0 else _short(phase.training_flop, 1e15)
    last = "" if phase.last_hours is None else _short(phase.last_hours)
    return [phase.phase, phase.what, tokens, flop, str(phase.gpus or ""), _short(phase.hours), last]


def _bound(number: str, at_most: bool) -> str:
    return f"≤ {number.removeprefix('< ')}" if at_most else number


def _summed(total: Total, unit: float = 1.0) -> str:
    known = _short(total.known or None, unit)
    return known if total.complete or not total.known else f"{known} + ?"


def _assumptions(assumed: Assumptions) -> str:
    row, answer, rate = assumed.tokens_per_row, assumed.tokens_per_answer, assumed.tokens_per_second
    return (
        f"A row has {row or 'train.cutoff_tokens'} tokens (--tokens-per-row), an answer {answer or 'max_new_tokens'} "
        f"(--tokens-per-answer); ≤: no mean was given. PFLOP: of training, without attention over the sequence and a "
        f"frozen vision tower. Hours: trainings at {assumed.tflops:g} TFLOP/s a GPU (--tflops; default: 40 % of an "
        f"H100's dense bf16 989), answers at {f'{rate:g}' if rate else '?'} tokens/s of a GPU or server "
        f"(--tokens-per-second), one phase after the other. Last run: what the last finished run of this name took. "
        f"Not counted: Δ, merges, a judge; a champion is one model more to evaluate."
    )


def _short(value: float | None, unit: float = 1.0) -> str:
    """Three digits, in multiples of ``unit``; whole from 100 on, and no less than a hundredth."""
    if value is None:
        return "?"
    if 0 < value < 0.01 * unit:
        return "< 0.01"
    return f"{value / unit:,.0f}" if value >= 100 * unit else f"{value / unit:.3g}"


def show_comparison(comparison: Comparison, as_json: bool) -> None:
    """Two models column by column, the role means last."""
    from drift.comparison import HEADS, caption, rows  # numpy and pyarrow, which other commands do not need

    if as_json:
        show_json(json.dumps(comparison.to_json()))
        return
    title = f"{comparison.candidate} against {comparison.baseline}"
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, caption=caption(comparison), caption_justify="left"
    )
    for head in HEADS:
        table.add_column(head, justify="left" if head == HEADS[0] else "right", no_wrap=True)
    for cells in rows(comparison):
        table.add_row(*cells, style="bold" if cells[0].endswith(" mean") else "")
    out.print(table)


MARKS = {"passed": "[green]✓[/]", "problem": "[red]✗[/]", "note": "[yellow]–[/]"}


def show_findings(findings: Sequence[Finding]) -> None:
    """A line per check: what it saw, a problem with its remedy, or what is worth a note."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        line = f"{finding.check:<{width}}  {finding.detail}".rstrip()
        out.print(f"{MARKS[finding.state]} {escape(line)}", soft_wrap=True)


def findings_as_json(findings: Sequence[Finding]) -> str:
    return json.dumps({"findings": [asdict(finding) for finding in findings]})


def show_rehearsal(rehearsal: Any) -> None:
    """What was replaced, what ran, and whether registering was reached; of a run on a cluster, its page."""
    width = max(map(len, rehearsal.replaced))
    for key, values in rehearsal.replaced.items():
        before, after = (json.dumps(value, ensure_ascii=False) for value in values)
        show_text(f"replaced  {key:<{width}}  {before} → {after}")
    show_text(f"rehearsed: all {rehearsal.steps} planned steps ran")
    for name, place in _places(rehearsal.result).items():
        show_text(f"{name:<17} {place}")


def rehearsal_as_json(findings: Sequence[Finding], rehearsal: Any) -> str:
    """The findings, and of a rehearsal its steps, what it replaced, and what it registered."""
    found = json.loads(findings_as_json(findings))
    ran = {"replaced": rehearsal.replaced, **_result_as_json(rehearsal.result)} if rehearsal else {}
    return json.dumps({**found, **ran})


def number(value: Any) -> str:
    """A number as a person writes it: whole numbers whole, others with four digits."""
    return f"{int(value)}" if float(value).is_integer() else f"{value:.4g}"


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
            return
        if name in self._running:
            self._live.remove_task(self._running.pop(name))
        if not self._quiet:
            mark, colour = {"finished": ("✓", "green"), "cached": ("≡", "cyan"), "failed": ("✗", "red")}[event.state]
            duration = "cached" if event.state == "cached" else f"{event.seconds:.1f} s"
            self._live.console.print(f"[{colour}]{mark}[/] {name:<28} {duration:>8}")
            for warning in event.warnings:
                self._live.console.print(f"  [yellow]![/] {escape(warning)}", soft_wrap=True)

    def close(self, result: Any, *, as_json: bool) -> None:
        """What the run found, and where everything is."""
        if as_json:
            show_json(json.dumps(_result_as_json(result)))
            return
        for table in _closing_tables(result.summary):
            out.print(table)
        out.print(f"gate: [bold]{result.gate['candidate']} {'passed' if result.passed else 'was refused'}[/]")
        for check in result.gate["checks"]:
            out.print(f"  {'[green]✓[/]' if check['passed'] else '[red]✗[/]'} {check['detail']}", soft_wrap=True)
        for name, place in _places(result).items():
            show_text(f"{name:<17} {place}")


def _closing_tables(summary: dict[str, Any]) -> list[Table]:
    """Method × benchmark, with the means, their intervals, and how far each model went towards the expert.

    One table, or on a narrow terminal two: the means, then the benchmarks.
    """
    rows = summary["rows"]
    benchmarks = {name: [f"{row['benchmarks'][name]:.1f}" for row in rows] for name in summary["benchmarks"]}
    means = {role: [_mean(row[role]) for row in rows] for role in ("reasoning", "perception")}
    kept = {"retained": [{True: "yes", False: "no", None: ""}[row["retained"]] for row in rows]}
    caption = "percent right, mean (interval); →Δ: projection along Δ, 1 is the expert"
    both = means | kept | _projections(rows)
    if out.width >= WIDE:
        return [_table(summary, benchmarks | both, caption)]
    return [_table(summary, both, caption), _table(summary, benchmarks, "percent right")]


def _projections(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    deltas = sorted({name for row in rows for name in row["projection"]})
    return {
        f"→{delta}": [f"{row['projection'][delta]:.2f}" if delta in row["projection"] else "" for row in rows]
        for delta in deltas
    }


def _table(summary: dict[str, Any], columns: dict[str, list[str]], caption: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("model", no_wrap=True)
    for head in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for row, *cells in zip(summary["rows"], *columns.values(), strict=True):
        table.add_row(row["label"], *cells, style="bold" if row["label"] == summary["candidate"] else "")
    return table


def _mean(mean: dict[str, float]) -> str:
    return f"{mean['mean']:.1f} ({mean['low']:z.0f}–{mean['high']:.0f})"


def _places(result: Any) -> dict[str, str]:
    if _on_cluster(result):
        return {"run": result.url}
    registered = result.registered
    model = f"{registered['model']} version {registered['version']}" if registered else "none: the gate refused"
    return {
        "report": str(result.report),
        "run": str(result.folder),
        "MLflow": f"{result.mlflow_uri}  (drift ui)",
        "registered model": model,
    }


def _on_cluster(result: Any) -> bool:
    return hasattr(result, "url")


def _result_as_json(result: Any) -> dict[str, Any]:
    if _on_cluster(result):
        return asdict(result)
    return {
        "skipped": False,
        "passed": result.passed,
        **{name.replace(" ", "_").lower(): place for name, place in _places(result).items()},
        "mlflow_run_id": result.mlflow_run_id,
        "registered": result.registered,
        "steps": [asdict(step) for step in result.steps],
        "summary": result.summary,
    }

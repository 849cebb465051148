"""What a person sees in the terminal: reports, records, findings, comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from drift.config.catalog import ROLES
from drift.ground.artifacts import write_text
from drift.ground.findings import Finding
from drift.ground.strict import strict_json
from drift.tracking.steps import Report

if TYPE_CHECKING:
    from drift.evaluate.evaluation import EvaluateReport
    from drift.gate.statistics import Comparison
    from drift.weights.delta.about import DeltaFacts
    from drift.weights.delta.deltafile import LayerRow

out = Console(highlight=False, emoji=False)
"""Results go to standard output; progress goes to standard error. `:cat:` in a reply stays what a model wrote."""

DELTA_HEADS = ("layer", "module", "‖Δ‖", "‖Δ‖/‖φ_VL‖", "cosine", "energy", "zeros")
COUNTS = ("failed", "truncated", "unparsed")
"""Of a benchmark's questions, beside its scores."""


def show_text(text: str) -> None:
    """One line of plain output."""
    out.print(text, markup=False, soft_wrap=True)


def show_json(text: str) -> None:
    """JSON, indented; NaN and infinities are null."""
    out.print(strict_json(json.loads(text), indent=2, ensure_ascii=False), markup=False, soft_wrap=True)


def show_report(report: Report, folder: Path | str, as_json: bool) -> None:
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


def show_judged(lines: str, counts: Mapping[str, float], file: Path | None, as_json: bool) -> None:
    """Verdicts as JSON lines, in ``file`` or on standard output; the summary then goes to standard error."""
    if file is None:
        out.file.write(lines)
    else:
        write_text(file, lines)
    screen = Console(highlight=False, stderr=file is None)
    if as_json:
        screen.print(strict_json(counts), markup=False, soft_wrap=True)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, count in counts.items():
        table.add_row(name, number(count))
    screen.print(table)


def show_scores(report: EvaluateReport, folder: Path, as_json: bool) -> None:
    """A row per headline column, and the mean of each role's; with `as_json` the flat numbers."""
    if as_json:
        show_report(report, folder, as_json)
        return
    from drift.evaluate.table import agreements, asked_text  # only what this command has loaded anyway

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("benchmark", "percent right", "n", *COUNTS):
        table.add_column(head, justify="left" if head == "benchmark" else "right", no_wrap=True)
    for score in report.scores.benchmarks.values():
        counts = [asked_text(score), *(str(getattr(score, count)) for count in COUNTS)]
        for name, mean in score.columns.items():
            table.add_row(name, mean_text(asdict(mean)), *counts)
    for role in ROLES:
        if (average := report.scores.role(role)) is not None:
            table.add_row(f"mean of {role}", mean_text(asdict(average)), style="bold")
    out.print(table)
    for sentence in agreements(report.scores):
        show_text(sentence)
    for warning in report.warnings:
        show_text(f"warning: {warning}")
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


def show_delta(facts: DeltaFacts, rows: Sequence[LayerRow], as_json: bool) -> None:
    """What a Δ is, and a row per layer and module."""
    if as_json:
        layers = [asdict(row) | {"sparsity": row.sparsity and row.sparsity._asdict()} for row in rows]
        show_json(json.dumps(asdict(facts) | {"by_layer": layers}))
        return
    show_record(facts, as_json=False)
    table = close_table(DELTA_HEADS, right=DELTA_HEADS[2:])
    for row in rows:
        values = (row.l2, row.relative_l2, row.cosine, row.energy, row.sparsity.zeros if row.sparsity else None)
        table.add_row(row.place, row.module, *("–" if value is None else f"{value:.4f}" for value in values))
    out.print(table)


def _amount(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return f"{value / 1e9:,.3f} GB"
    return str(len(value)) if isinstance(value, list) else str(value)


def show_record(record: Any, as_json: bool) -> None:
    """One dataclass: its fields by name, but for those that say nothing."""
    if as_json:
        show_json(json.dumps(asdict(record)))
        return
    table = Table("", Column(overflow="fold"), show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in asdict(record).items():
        if value not in ("", []):
            table.add_row(name.replace("_", " "), escape(_cell(value)))
    out.print(table)


def show_records(records: Sequence[Any], as_json: bool) -> None:
    """Dataclasses of one kind, a row each."""
    if as_json:
        show_json(json.dumps([asdict(record) for record in records]))
        return
    rows = [asdict(record) for record in records]
    if not rows:
        show_text("none")
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
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
    if isinstance(value, list | tuple):
        return "\n".join(map(str, value))
    return "none" if value is None else str(value)


def show_comparison(comparison: Comparison, as_json: bool) -> None:
    """Two models column by column, the role means last."""
    from drift.gate.comparison import HEADS, caption, rows  # numpy and pyarrow, which other commands do not need

    if as_json:
        show_json(json.dumps(comparison.to_json()))
        return
    title = f"{comparison.candidate} against {comparison.baseline}"
    table = close_table(HEADS, right=HEADS[1:])
    for cells in rows(comparison):
        table.add_row(*cells, style="bold" if cells[0].endswith(" mean") else "")
    show_text(f"compared: {title}")
    out.print(table)
    out.print(caption(comparison))


def close_table(heads: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    """A table without margins, whose cells are folded and never cut: it is whole in 80 characters."""
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow="fold")
    return table


MARKS = {"passed": "[green]✓[/]", "problem": "[red]✗[/]", "note": "[yellow]–[/]"}


def show_findings(findings: Sequence[Finding]) -> None:
    """A line per check: what it saw, a problem with its remedy, or what is worth a note."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        line = f"{finding.check:<{width}}  {finding.detail}".rstrip()
        out.print(f"{MARKS[finding.state]} {escape(line)}", soft_wrap=True)


def findings_as_json(findings: Sequence[Finding]) -> str:
    return json.dumps({"findings": [asdict(finding) for finding in findings]})


def number(value: Any) -> str:
    """A number as a person writes it: whole numbers whole, others with four digits."""
    return f"{int(value)}" if float(value).is_integer() else f"{value:.4g}"


def mean_text(mean: dict[str, float]) -> str:
    return f"{mean['mean']:.1f} ({mean['low']:z.0f}–{mean['high']:.0f})"

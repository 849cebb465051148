"""What a person sees in the terminal: reports, records, findings, comparisons."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from drift.config.catalog import ROLES
from drift.ground.artifacts import write_text
from drift.ground.findings import Finding
from drift.ground.strict import strict_json

if TYPE_CHECKING:
    from drift.evaluate.evaluation import EvaluateReport
    from drift.gate.outcome import GateReport
    from drift.gate.statistics import Comparison
    from drift.tracking.steps import Report
    from drift.weights.delta.about import DeltaFacts
    from drift.weights.delta.deltafile import LayerRow

out = Console(highlight=False, emoji=False)
"""Results go to standard output; progress goes to standard error. `:cat:` in a reply stays what a model wrote."""

DELTA_HEADS = ("layer", "module", "‖Δ‖", "‖Δ‖/‖φ_VL‖", "cosine", "energy", "zeros")
COUNTS = ("failed", "truncated", "unparsed")
"""Of a benchmark's questions, beside its scores."""
FOLDED, WORD = 16, 50
"""Characters: a table's text is folded to no less than the first; no word of it is broken that is within the second."""

_NUMBER = re.compile(r"$|[-+]?\d+(\.\d+)?( |$)")
"""A number, with its interval or unit; or nothing."""


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
    show_pairs([*((name, number(value)) for name, value in numbers.items()), ("written to", str(folder))])


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
    place = [("written to", str(file))] if file else []
    show_pairs([*((name, number(count)) for name, count in counts.items()), *place], on=screen)


def show_scores(report: EvaluateReport, folder: Path, as_json: bool) -> None:
    """A row per headline column, and the mean of each role's; with `as_json` the flat numbers."""
    if as_json:
        show_report(report, folder, as_json)
        return
    from drift.evaluate.table import agreements, asked_text  # only what this command has loaded anyway

    rows = [
        [name, mean_text(asdict(mean)), asked_text(score), *(str(getattr(score, count)) for count in COUNTS)]
        for score in report.scores.benchmarks.values()
        for name, mean in score.columns.items()
    ]
    averages = {f"mean of {role}": mean for role in ROLES if (mean := report.scores.role(role)) is not None}
    rows += [[name, mean_text(asdict(mean)), "", *("" for _ in COUNTS)] for name, mean in averages.items()]
    heads = ("benchmark", "percent right", "n", *COUNTS)
    show_table(heads, rows, right=heads[1:], bold=lambda cells: cells[0] in averages)
    for sentence in [*agreements(report.scores), *(f"warning: {warning}" for warning in report.warnings)]:
        show_text(sentence)
    show_text(f"written to {folder}")


def show_plan(summary: Mapping[str, Any], as_json: bool) -> None:
    """What a dry run would do: one row per entry, lists as their lengths, warnings written out."""
    if as_json:
        show_json(json.dumps(summary))
        return
    pairs: list[tuple[str, str]] = []
    for name, value in summary.items():
        if name in ("models", "warnings"):
            pairs += [(name.removesuffix("s"), line) for line in value]
        elif name != "pairs":
            pairs.append((name.replace("_", " "), _amount(name, value)))
    show_pairs(pairs)


def show_delta(facts: DeltaFacts, rows: Sequence[LayerRow], as_json: bool) -> None:
    """What a Δ is, and a row per layer and module."""
    if as_json:
        layers = [asdict(row) | {"sparsity": row.sparsity and row.sparsity._asdict()} for row in rows]
        show_json(json.dumps(asdict(facts) | {"by_layer": layers}))
        return
    show_table(DELTA_HEADS, [_layer(row) for row in rows], right=DELTA_HEADS[2:])
    show_record(facts, as_json=False)


def _layer(row: LayerRow) -> list[str]:
    values = (row.l2, row.relative_l2, row.cosine, row.energy, row.sparsity.zeros if row.sparsity else None)
    return [row.place, row.module, *("–" if value is None else f"{value:.4f}" for value in values)]


def _amount(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return f"{value / 1e9:,.3f} GB"
    return str(len(value)) if isinstance(value, list) else str(value)


def show_record(record: Any, as_json: bool) -> None:
    """One dataclass: its fields by name, but for those that say nothing."""
    if as_json:
        show_json(json.dumps(asdict(record)))
        return
    said = {name.replace("_", " "): value for name, value in asdict(record).items() if value not in ("", [])}
    show_pairs((name, _cell(value)) for name, value in said.items())


def show_records(records: Sequence[Any], as_json: bool) -> None:
    """Dataclasses of one kind, a row each."""
    if as_json:
        show_json(json.dumps([asdict(record) for record in records]))
        return
    rows = [asdict(record) for record in records]
    if not rows:
        show_text("none")
        return
    heads = [name.replace("_", " ") for name in rows[0]]
    cells = [list(map(_cell, row.values())) for row in rows]
    numbers = [head for head, *column in zip(heads, *cells, strict=True) if all(map(_NUMBER.match, column))]
    show_table(heads, cells, right=numbers)


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
    from drift.gate.comparison import (
        HEADS,
        caption,
        rows,
        sentences,
    )  # numpy and pyarrow, which other commands do not need

    if as_json:
        show_json(json.dumps(comparison.to_json()))
        return
    show_text(f"compared: {comparison.candidate} against {comparison.baseline}")
    show_table(HEADS, rows(comparison), right=HEADS[1:], bold=lambda cells: cells[0].endswith(" mean"))
    out.print(caption(comparison))
    for sentence in sentences(comparison):
        show_text(sentence)


def show_gate(report: GateReport, folder: Path, as_json: bool) -> None:
    """The verdict, what was checked, and where it is written."""
    if as_json:
        show_report(report, folder, as_json)
        return
    show_verdict(report.candidate, report.passed, [asdict(check) for check in report.checks])
    show_text(f"written to {folder / 'gate.md'}")


def show_verdict(candidate: str, passed: bool, checks: Sequence[Mapping[str, Any]]) -> None:
    """Every check of a gate with its reason, and the verdict."""
    for check in checks:
        _show_sentence(f"  {MARKS['passed' if check['passed'] else 'problem']} ", check["detail"])
    out.print(f"gate: [bold]{escape(candidate)} {'passed' if passed else 'was refused'}[/]", soft_wrap=True)


def _show_sentence(head: str, text: str) -> None:
    """A sentence behind its mark. A terminal folds it between words, under itself: by itself it breaks numbers, too."""
    if not out.is_terminal:
        out.print(f"{head}{escape(text)}".rstrip(), soft_wrap=True)
        return
    line = Table.grid()
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(head, Text(text))
    out.print(line)


def show_pairs(pairs: Iterable[tuple[str, str]], *, least: int = 0, on: Console = out) -> None:
    """A line for each name and its value, and for each further line of that; no path or number is broken."""
    known = list(pairs)
    width = max((len(name) for name, _ in known), default=0)
    for name, text in known:
        for place, line in enumerate(text.split("\n")):
            head = "" if place else name
            on.print(f"{head:<{max(width, least)}}  {line}".rstrip(), markup=False, soft_wrap=True)


def show_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    bold: Callable[[Sequence[str]], bool] = lambda cells: False,
) -> None:
    """Rows below their heads; the columns on the right are of numbers.

    Nothing is cut and no number is broken: texts are folded between words, and columns that do not fit the terminal
    stand in further tables, each with the first column.
    """
    styles = ["bold" if bold(cells) else "" for cells in rows]
    columns = list(zip(heads, *rows, strict=True))
    for block in _blocks([_least(column, column[0] in right) for column in columns]):
        table = _grid([columns[place] for place in block], right)
        for style, *cells in zip(styles, *(columns[place][1:] for place in block), strict=True):
            table.add_row(*map(Text, cells), style=style)
        out.print(table)


def _blocks(least: Sequence[int]) -> list[list[int]]:
    """Which columns stand together: in as few tables as the terminal allows, and those of like width."""
    count = len(_filled(least, out.width))
    return next(blocks for width in range(out.width + 1) if len(blocks := _filled(least, width)) == count)


def _filled(least: Sequence[int], width: int) -> list[list[int]]:
    blocks, taken = [[0]], least[0]
    for place, one in enumerate(least[1:], 1):
        if len(blocks[-1]) > 1 and taken + 1 + one > width:
            blocks.append([0])
            taken = least[0]
        blocks[-1].append(place)
        taken += 1 + one
    return blocks


def _width(column: Sequence[str]) -> int:
    return max(cell_len(line) for cell in column for line in cell.split("\n"))


def _least(column: Sequence[str], of_numbers: bool) -> int:
    """Characters that a column has to have: a text is folded between its words, down to `FOLDED` and the longest."""
    words = [cell_len(word) for cell in column for word in cell.split()]
    return _width(column) if of_numbers else min(_width(column), max([FOLDED, *(min(word, WORD) for word in words)]))


def _grid(columns: Sequence[Sequence[str]], right: Sequence[str]) -> Table:
    """An empty table without margins, as wide as its texts want to be or the terminal is."""
    widths, spare = _widths(columns, right)
    roomy = spare >= len(columns) - 1
    table = Table(box=SIMPLE_HEAD, padding=(0, int(roomy), 0, 0), show_edge=False, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column[0] in right else "left"
        table.add_column(Text(column[0]), justify=justify, overflow="fold", width=width)
    return table


def _widths(columns: Sequence[Sequence[str]], right: Sequence[str]) -> tuple[list[int], int]:
    """Of each column, and what is left of the terminal; two that are too wide have half of it each."""
    widths = [_least(column, column[0] in right) for column in columns]
    if (spare := out.width - sum(widths) - len(widths) + 1) < 0:
        return [min(width, (out.width - 1) // 2) for width in widths], 0
    for place, column in enumerate(columns):
        more = min(spare, _width(column) - widths[place])
        widths[place] += more
        spare -= more
    return widths, spare


MARKS = {"passed": "[green]✓[/]", "problem": "[red]✗[/]", "note": "[yellow]–[/]"}


def show_findings(findings: Sequence[Finding]) -> None:
    """A line per check: what it saw, a problem with its remedy, or what is worth a note."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        _show_sentence(f"{MARKS[finding.state]} {escape(f'{finding.check:<{width}}')}  ", finding.detail)
    problems = [finding.check for finding in findings if finding.is_problem]
    found = f"{len(problems)} of {len(findings)} checks found a problem: {', '.join(problems)}"
    show_text(found if problems else f"{len(findings)} checks: no problem")


def findings_as_json(findings: Sequence[Finding]) -> str:
    return json.dumps({"findings": [asdict(finding) for finding in findings]})


def number(value: Any) -> str:
    """A number as a person writes it: whole numbers whole, others with four digits."""
    return f"{int(value)}" if float(value).is_integer() else f"{value:.4g}"


def mean_text(mean: dict[str, float]) -> str:
    return f"{mean['mean']:.1f} ({mean['low']:z.0f}–{mean['high']:.0f})"

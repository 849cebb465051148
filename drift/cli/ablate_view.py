"""What `drift ablate` shows: cells and their cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from drift.cli.plan_view import summed
from drift.cli.show import out, show_json, show_table, show_text

if TYPE_CHECKING:
    from drift.planning.ablation.budget import CellCost
    from drift.planning.ablation.expansion import Ablation
    from drift.planning.ablation.table import Table
    from pipelines.cluster.follow import ClusterRun
    from pipelines.local.ablation import CellResult

HEADS = ("cell", "arms", "trainings", "merges", "scored", "M tokens", "PFLOP", "hours", "GPU hours")


def show_budget(ablation: Ablation, costs: Sequence[CellCost], as_json: bool) -> None:
    """Arms, a row per cell, and all cells together."""
    from drift.planning.ablation.budget import sums

    together = sums(costs)
    arms = list(dict.fromkeys(name for cell in ablation.cells for name in cell.arms))
    if as_json:
        show_json(json.dumps({"arms": arms, "cells": [asdict(one) for one in costs], "total": asdict(together)}))
        return
    show_text(f"{ablation.config.name}: {ablation.config.about}".rstrip(": "))
    show_text(f"arms: {', '.join(arms)}")
    for said in _twins(ablation):
        show_text(said)
    out.print(
        "A cell is one run of the chain; counted is what no cell before it has made, the cache answers the rest. "
        "Hours: see `drift plan`, whose options these are. Not counted: Δ, merges, a judge."
    )
    rows = [_cells(one) for one in (*costs, together)]
    show_table(HEADS, rows, right=HEADS[1:], bold=lambda cells: cells is rows[-1])


def _cells(one: CellCost) -> list[str]:
    counts = (one.arms, one.trainings, one.merges, one.evaluations)
    units = {"tokens": 1e6, "training_flop": 1e15, "hours": 1.0, "gpu_hours": 1.0}
    return [one.cell, *map(str, counts), *(summed(one.amounts[name], unit) for name, unit in units.items())]


def _twins(ablation: Ablation) -> list[str]:
    """A line for each arm that is another one under a second name."""
    pairs = {(name, arm) for cell in ablation.cells for name, arm in cell.arms.items() if name != arm}
    return [f"{name} is {arm}: made once" for name, arm in sorted(pairs)]


def show_ablation(ablation: Ablation, table: Table, results: Sequence[CellResult], as_json: bool) -> None:
    """How the cells ended, and the table as it is now."""
    from drift.planning.ablation.writing import csv

    if as_json:
        cells = {one.cell: one.failed for one in results}
        show_json(json.dumps({"name": ablation.config.name, "failed": cells, "table": csv(table)}))
        return
    show_ablated(table)


def show_ablated(table: Table) -> None:
    """What the columns mean, what was published and what is missing; then the benchmarks, and last the roles."""
    from drift.planning.ablation import writing

    show_text(table.title)
    out.print(writing.caption(table))
    _show_published(table)
    for line in writing.missing(table):
        show_text(f"- {line}")
    measured = writing.measured(table)
    _show_columns(measured)
    _show_columns({"method": measured["method"]} | writing.compared(table))


def _show_columns(columns: Mapping[str, Sequence[str]]) -> None:
    heads = list(columns)
    show_table(heads, list(zip(*columns.values(), strict=True)), right=heads[1:])


def _show_published(table: Table) -> None:
    from drift.planning.ablation.writing import BESIDE, not_comparable, published

    if rows := published(table):
        sentence = not_comparable(table)
        show_text(f"Published: {table.source}. {sentence}".rstrip())
        if not sentence:
            show_table(BESIDE, rows, right=("ours", "published"))


def show_submitted(runs: Sequence[ClusterRun], as_json: bool) -> None:
    """Where every cell's run is, and how it ended."""
    if as_json:
        show_json(json.dumps([asdict(one) for one in runs]))
        return
    for one in runs:
        show_text(" ".join(filter(None, (one.name, one.state, one.url, one.failure))))

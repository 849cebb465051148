"""What `drift ablate` shows: cells and their cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from drift.cli.plan_view import summed
from drift.cli.show import close_table, out, show_json, show_text

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
    table = close_table(HEADS, right=HEADS[1:])
    for one in costs:
        table.add_row(*_cells(one))
    table.add_row(*_cells(together), style="bold")
    out.print(table)
    out.print(
        "A cell is one run of the chain; counted is what no cell before it has made, the cache answers the rest. "
        "Hours: see `drift plan`, whose options these are. Not counted: Δ, merges, a judge."
    )


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
    from drift.planning.ablation.writing import csv, markdown

    if as_json:
        cells = {one.cell: one.failed for one in results}
        show_json(json.dumps({"name": ablation.config.name, "failed": cells, "table": csv(table)}))
        return
    show_text(markdown(table).rstrip())


def show_submitted(runs: Sequence[ClusterRun], as_json: bool) -> None:
    """Where every cell's run is, and how it ended."""
    if as_json:
        show_json(json.dumps([asdict(one) for one in runs]))
        return
    for one in runs:
        show_text(" ".join(filter(None, (one.name, one.state, one.url, one.failure))))

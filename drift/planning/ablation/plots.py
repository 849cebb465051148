"""Pictures of a table: differences with intervals, reasoning against perception, and a map of two axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drift.config.catalog import Role
from drift.config.gate import GateConfig
from drift.ground.drawing import COLOURS, STYLE, Array
from drift.planning.ablation.expansion import Ablation, grid_names
from drift.planning.ablation.identity import BASELINE
from drift.planning.ablation.schema import GridConfig
from drift.planning.ablation.table import Row, Table

ROLE_COLOURS = {"reasoning": COLOURS[0], "perception": COLOURS[1]}
MARKERS = "osD^vPX"
DOTS = 150
"""Per inch."""


def write_plots(folder: Path, ablation: Ablation, table: Table) -> list[Path]:
    """`forest.png`, `scatter.png`, and `heatmap-AXIS-AXIS.png` of every grid of two axes; each if it has anything."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"forest": forest(table), "scatter": scatter(table, ablation.gate)}
    for grid in ablation.config.grid:
        wide = [axis for axis, values in grid.axes.items() if len(values) > 1]
        if len(wide) == 2:
            for role in table.roles:
                drawn[f"heatmap-{'-'.join(wide)}-{role}"] = heatmap(ablation, grid, (wide[0], wide[1]), table, role)
    paths = []
    for name, figure in drawn.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=DOTS, metadata={"Software": None})
    return paths


def forest(table: Table) -> Figure | None:
    """Every row's difference to the arm compared with, a panel per role; filled where Holm's p is below 1 − confidence.

    None where no row has one.
    """
    rows = [row for row in table.rows if row.effects]

    def draw(*panels: Axes) -> None:
        for axes, role in zip(panels, table.roles, strict=True):
            for place, row in enumerate(reversed(rows)):
                _interval(axes, place, row, role, 1 - table.confidence)
            axes.axvline(0, color="#888", lw=1)
            axes.set_xlabel(f"{role}: points to {table.against}")
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
            axes.grid(axis="x", color="#eee")
        for axes in panels[1:]:
            axes.tick_params(labelleft=False)

    return _figure(draw, 3.0 + 3.4 * len(table.roles), 1.2 + 0.3 * len(rows), len(table.roles)) if rows else None


def _interval(axes: Axes, place: int, row: Row, role: Role, alpha: float) -> None:
    effect = row.effects.get(role)
    if effect is None:
        return
    colour = ROLE_COLOURS[role]
    axes.plot([effect.low, effect.high], [place, place], color=colour, lw=1.6)
    filled = colour if effect.holm < alpha else "white"
    axes.plot([effect.points], [place], "o", ms=6, color=colour, markerfacecolor=filled)


def scatter(table: Table, gate: GateConfig) -> Figure | None:
    """Mean perception by mean reasoning of every row, deviations over seeds as whiskers, and the gate's lines.

    The lines are the base's margins from the unmodified VLM: right of the one, above the other a model may pass; the
    gate asks that of the bounds. None where no row has both.
    """
    rows = [row for row in table.rows if {"reasoning", "perception"} <= row.roles.keys()]

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            x, y = row.roles["reasoning"], row.roles["perception"]
            colour = "#222" if _is_baseline(row) else COLOURS[place % len(COLOURS)]
            look: Any = {"fmt": MARKERS[place % len(MARKERS)], "ms": 6, "color": colour, "elinewidth": 0.8}
            axes.errorbar(x.mean, y.mean, y.deviation, x.deviation, label=row.name, **look)
        for row in filter(_is_baseline, rows):
            axes.axvline(row.roles["reasoning"].mean + gate.min_reasoning_gain, color="#888", ls="--", lw=1)
            axes.axhline(row.roles["perception"].mean - gate.max_perception_loss, color="#888", ls="--", lw=1)
        axes.set_xlabel("reasoning, percent right")
        axes.set_ylabel("perception, percent right")
        axes.margins(0.08)
        axes.grid(color="#eee")
        # beside it: names at points of nearly equal models would lie over each other
        axes.figure.legend(loc="outside right upper", fontsize=8, frameon=False)

    return _figure(draw, 7.8, max(4.8, 0.8 + 0.2 * len(rows))) if rows else None


def _is_baseline(row: Row) -> bool:
    return row.name.split("/")[-1] == BASELINE


def heatmap(ablation: Ablation, grid: GridConfig, axes_of: tuple[str, str], table: Table, role: Role) -> Figure | None:
    """Mean of a role over a grid of two axes; several labels of `across` are averaged. None where nothing is there."""
    down, along = (list(grid.axes[axis]) for axis in axes_of)
    means = np.array([[_mean(ablation, grid, axes_of, (d, a), table, role) for a in along] for d in down])

    def draw(axes: Axes) -> None:
        image = axes.imshow(np.ma.masked_invalid(means), aspect="auto", cmap="viridis")
        axes.set_yticks(range(len(down)), down)
        axes.set_xticks(range(len(along)), along, rotation=20 if max(map(len, along)) > 8 else 0)
        axes.set_ylabel(axes_of[0])
        axes.set_xlabel(axes_of[1])
        _write_in(axes, means)
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.colorbar(image, ax=axes, label=f"{role}, percent right")

    if np.isnan(means).all():
        return None
    return _figure(draw, 3.0 + 1.0 * len(along), 1.8 + 0.5 * len(down))


def _write_in(axes: Axes, means: Array) -> None:
    middle = float(np.nanmean([np.nanmin(means), np.nanmax(means)]))
    for (row, column), value in np.ndenumerate(means):
        text, colour = ("—", "#222") if np.isnan(value) else (f"{value:.1f}", "white" if value < middle else "#222")
        axes.text(column, row, text, ha="center", va="center", color=colour, size=9)


def _mean(
    ablation: Ablation, grid: GridConfig, axes_of: tuple[str, str], at: tuple[str, str], table: Table, role: Role
) -> float:
    names = grid_names(grid, dict(zip(axes_of, at, strict=True)))
    arms = {cell.row(name) for cell in ablation.cells for name in names if name in cell.arms}
    values = [row.roles[role].mean for row in table.rows if row.name in arms and role in row.roles]
    return float(np.mean(values)) if values else float("nan")


def _figure(draw: Callable[..., Any], width: float, height: float, panels: int = 1) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(*np.atleast_1d(figure.subplots(1, panels)))
    return figure

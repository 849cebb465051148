"""The report's figures, each as the text of one SVG image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from drift.evaluate.scores import Mean
from drift.ground.drawing import COLOURS, Array, svg

REASONING, PERCEPTION = COLOURS[:2]

History = Sequence[Mapping[str, float]]


def intervals(rows: Sequence[tuple[str, Mean]], least: float, role: str, candidate: str) -> str:
    """The mean of a role of every (label, mean) with its interval, a line each; what the gate asks for is dashed."""
    colour = REASONING if role == "reasoning" else PERCEPTION

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))[::-1]
        means = np.array([mean.mean for _, mean in rows])
        reach = np.array([(mean.mean - mean.low, mean.high - mean.mean) for _, mean in rows]).clip(0).T
        axes.errorbar(means, places, xerr=reach, fmt="o", color=colour, ms=5, capsize=3, lw=1.4)
        axes.axvline(least, color=colour, ls="--", lw=1, label=f"the gate's minimum of {role}")
        axes.set_yticks(places, [label for label, _ in rows])
        for text in axes.get_yticklabels():
            text.set_fontweight("bold" if text.get_text() == candidate else "normal")
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"{role}, percent right")
        axes.grid(axis="x", color="#eee")
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.legend(loc="outside lower center", fontsize=9)

    return svg(draw, width=5.6, height=1.2 + 0.3 * len(rows))


def curves(histories: Mapping[str, History], key: str) -> str | None:
    """A quantity of the training steps, one line per arm; None if no arm logged it."""
    lines = {
        arm: [(row["step"], row[key]) for row in history if row.get(key) is not None and math.isfinite(row[key])]
        for arm, history in histories.items()
    }

    def draw(axes: Axes) -> None:
        for place, (arm, points) in enumerate(lines.items()):
            if points:
                style: Any = {"color": COLOURS[place % len(COLOURS)], "ls": "-" if place < len(COLOURS) else "--"}
                axes.plot(*zip(*points, strict=True), lw=1.4, label=arm, **style)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#eee")
        axes.legend(fontsize=9, ncols=1 if len(lines) < 5 else 2)

    return svg(draw, width=5.6, height=3.6) if any(lines.values()) else None


def funnel(stages: Sequence[tuple[str, int]]) -> str:
    """How many remain after each stage."""

    def draw(axes: Axes) -> None:
        names, counts = [name for name, _ in stages], [count for _, count in stages]
        places = np.arange(len(stages))[::-1]
        axes.barh(places, counts, color=REASONING, height=0.62)
        for place, count in zip(places, counts, strict=True):
            axes.annotate(f"{count:,}", (count, place), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, names)
        axes.set_xlim(0, 1.12 * max(*counts, 1))
        axes.xaxis.set_visible(False)
        axes.spines[["bottom"]].set_visible(False)

    return svg(draw, width=7.5, height=0.6 + 0.42 * len(stages))


def heatmap(modules: Sequence[str], layers: Sequence[int], ratios: Array, most: float) -> str:
    """‖Δ‖/‖φ_VL‖ per module (row) and layer (column), its scale from 0 to ``most``.

    Shape of ``ratios``: [modules, layers]; NaN where Δ has none.
    """

    def draw(axes: Axes) -> None:
        image = axes.imshow(ratios, aspect="auto", cmap="viridis", vmin=0, vmax=most or None)
        axes.set_yticks(range(len(modules)), list(modules))
        axes.set_xlabel("decoder layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        ticks = [int(tick) for tick in np.linspace(0, len(layers) - 1, min(len(layers), 10))]
        axes.set_xticks(ticks, [str(layers[tick]) for tick in ticks])
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.colorbar(image, ax=axes, label="‖Δ‖ / ‖φ$_{VL}$‖")

    return svg(draw, width=min(5.6, max(4.5, 2.6 + 0.3 * len(layers))), height=1.2 + 0.32 * len(modules))

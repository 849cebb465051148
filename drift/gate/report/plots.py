"""The report's figures, each as the text of one SVG image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from drift.evaluate.scores import Mean
from drift.ground.drawing import COLOURS, Array, svg

REASONING, PERCEPTION = COLOURS[:2]

History = Sequence[Mapping[str, float]]
Bar = tuple[str, Mean | None, Mean | None]


def bars(rows: Sequence[Bar], min_reasoning: float | None, min_perception: float | None) -> str:
    """Reasoning and perception of every (label, reasoning, perception) with intervals; the gate's thresholds dashed."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        reasoning, perception = [row[1] for row in rows], [row[2] for row in rows]
        _bars_of_role(axes, places - 0.19, reasoning, "reasoning", REASONING, min_reasoning)
        _bars_of_role(axes, places + 0.19, perception, "perception", PERCEPTION, min_perception)
        axes.set_xticks(places, [row[0] for row in rows], rotation=15 if len(rows) > 4 else 0)
        axes.set_ylabel("percent right")
        axes.set_ylim(0, 105)
        axes.grid(axis="y", color="#eee")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)

    return svg(draw, width=1.6 + 1.3 * max(len(rows), 4), height=4.2)


def _bars_of_role(
    axes: Axes, places: Array, means: Sequence[Mean | None], role: str, colour: str, minimum: float | None
) -> None:
    heights = [mean.mean if mean else 0.0 for mean in means]
    whiskers = [(mean.mean - mean.low, mean.high - mean.mean) if mean else (0.0, 0.0) for mean in means]
    axes.bar(places, heights, 0.36, color=colour, label=role)
    axes.errorbar(places, heights, np.array(whiskers).T, fmt="none", ecolor="#222", capsize=3, lw=1)
    if minimum is not None:
        axes.axhline(minimum, color=colour, ls="--", lw=1, label=f"the gate's minimum of {role}")


def curves(histories: Mapping[str, History], key: str, title: str) -> str | None:
    """A quantity of the training steps, one line per arm; None if no arm logged it."""
    lines = {
        arm: [(row["step"], row[key]) for row in history if row.get(key) is not None and math.isfinite(row[key])]
        for arm, history in histories.items()
    }

    def draw(axes: Axes) -> None:
        for place, (arm, points) in enumerate(lines.items()):
            if points:
                axes.plot(*zip(*points, strict=True), color=COLOURS[place % len(COLOURS)], lw=1.4, label=arm)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#eee")
        axes.legend()

    return svg(draw, width=6.2, height=3.6) if any(lines.values()) else None


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


def heatmap(modules: Sequence[str], layers: Sequence[int], ratios: Array) -> str:
    """‖Δ‖/‖φ_VL‖ per module (row) and layer (column). Shape of ``ratios``: [modules, layers]; NaN where Δ has none."""

    def draw(axes: Axes) -> None:
        image = axes.imshow(ratios, aspect="auto", cmap="viridis", vmin=0)
        axes.set_yticks(range(len(modules)), list(modules))
        axes.set_xlabel("decoder layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        ticks = [int(tick) for tick in np.linspace(0, len(layers) - 1, min(len(layers), 15))]
        axes.set_xticks(ticks, [str(layers[tick]) for tick in ticks])
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.colorbar(image, ax=axes, label="‖Δ‖ / ‖φ$_{VL}$‖")

    return svg(draw, width=max(4.5, 2.6 + 0.3 * len(layers)), height=1.2 + 0.32 * len(modules))

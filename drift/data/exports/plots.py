"""Pictures of a data folder, each as the text of one SVG image."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from drift.ground.drawing import COLOURS, svg

BINS = 20
BACKGROUND = "white"
"""The card's readers may have a dark page."""


def histogram(values: Sequence[float], label: str, limits: tuple[float, float] | None = None) -> str:
    """How many rows have which value, in equal bins between ``limits`` or the extremes."""

    def draw(axes: Axes) -> None:
        axes.hist(values, bins=BINS, range=limits, color=COLOURS[0], rwidth=0.9)
        axes.set_xlabel(label)
        axes.set_ylabel("rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#eee")

    return svg(draw, width=4.6, height=2.8, background=BACKGROUND)

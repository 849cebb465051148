"""Pictures of a data folder, each as the text of one SVG image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from drift.ground.drawing import COLOURS, svg

BINS = 20
BACKGROUND = "white"
"""The card's readers may have a dark page."""


LIMITS: dict[str, tuple[float, float] | None] = {"pass_rate": (0.0, 1.0), "n_tokens": None}
LABELS = {"pass_rate": "share of the teacher's samples that were right", "n_tokens": "tokens of a chain"}


def of_chains(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(column, picture) of what is known of the chains: how often the teacher was right, and how long they are."""
    for column, limits in LIMITS.items():
        if values := [float(row[column]) for row in rows if row[column] is not None]:
            yield column, histogram(values, LABELS[column], limits)


def histogram(values: Sequence[float], label: str, limits: tuple[float, float] | None = None) -> str:
    """How many rows have which value, in equal bins between ``limits`` or the extremes."""

    def draw(axes: Axes) -> None:
        axes.hist(values, bins=BINS, range=limits, color=COLOURS[0], rwidth=0.9)
        axes.set_xlabel(label)
        axes.set_ylabel("rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#eee")

    return svg(draw, width=4.6, height=2.8, background=BACKGROUND)

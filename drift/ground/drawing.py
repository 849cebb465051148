"""Pictures that go with a Δ or a training, as the text of SVG images; and how all pictures of the project look.

Apart from the report's figures, so that a change of those reruns no training.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "drift",  # the same figure has the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
COLOURS = ("#1f6feb", "#d9730d", "#2a9d5c", "#9b4dca", "#c0392b", "#5d6d7e", "#b7950b", "#16a2b8")

Array = np.ndarray[Any, Any]
LayerValues = Sequence[tuple[str, Sequence[int], Sequence[float], Sequence[float]]]


def cosines(steps: Sequence[int], values: Array) -> str:
    """cos(g, Δ) per decoder layer (row) and logged step (column). Shape of ``values``: [layers, steps]."""
    limit = float(np.nanmax(np.abs(values))) or 1.0

    def draw(axes: Axes) -> None:
        image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_ylabel("decoder layer")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("optimizer step")
        ticks = sorted({int(tick) for tick in np.linspace(0, len(steps) - 1, 8)})
        axes.set_xticks(ticks, [str(steps[tick]) for tick in ticks])
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.colorbar(image, ax=axes, label="cos(g, Δ)")

    return svg(draw, width=6.2, height=max(3.6, 1.6 + 0.09 * len(values)))


def layers(modules: LayerValues) -> str:
    """Size and direction of Δ over the decoder (the paper's Figure 2), a line per module.

    Each of ``modules`` is (name, layers, ‖Δ‖/‖φ_VL‖ per layer, cosine per layer).
    """

    def draw(ratio: Axes, cosine: Axes) -> None:
        for place, (name, where, ratios, cosines) in enumerate(modules):
            style: Any = {"color": COLOURS[place % len(COLOURS)], "lw": 1.4, "marker": "o", "ms": 3, "label": name}
            ratio.plot(where, ratios, **style)
            cosine.plot(where, cosines, **style)
        for axes, title in ((ratio, "‖Δ‖ / ‖φ$_{VL}$‖"), (cosine, "cos(φ$_{reason}$, φ$_{other}$)")):
            axes.set_xlabel("decoder layer")
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#eee")
        ratio.legend()

    return svg(draw, width=9.0, height=3.4, panels=2)


def svg(draw: Callable[..., None], width: float, height: float, panels: int = 1, background: str | None = None) -> str:
    """What ``draw`` draws on its axes, one for each of the ``panels`` side by side; sizes in inches.

    Transparent without a ``background``.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(*np.atleast_1d(figure.subplots(1, panels)))
        buffer = io.StringIO()
        filled: Any = {"facecolor": background} if background else {"transparent": True}
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, **filled)
    return buffer.getvalue()

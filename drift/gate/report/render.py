"""A page from its templates. Its own policy lets no script but its own run, and nothing be fetched."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
SCRIPT = "page.js.jinja"
_LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>| xmlns(?::\w+)?=\"[^\"]*\"", re.DOTALL)
_NAMES = re.compile(r' id="(?!(?:[mp]|image)[0-9a-f]{10}")[^"]*"')
"""Of groups in a figure, which other figures have too; marks, clips and images are named by what they are."""


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page. All text in ``content`` is escaped but what `figure` made."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "interval": interval, "took": took, "csv_uri": csv_uri, "broken": broken}
    script = environment.get_template(SCRIPT).render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(content, script=Markup(script), script_sha256=digest)


def figure(svg: str) -> Markup:
    """A drawing as a part of the page, whose colours follow its scheme; as wide as it was drawn at most."""
    inner = _NAMES.sub("", _LEFT_OUT.sub("", svg[svg.index("<svg") :]))
    width, height = (re.search(rf' {side}="([\d.]+)pt"', inner) for side in ("width", "height"))
    if width is None or height is None:
        return Markup(inner)
    style = f' style="max-width: {float(width[1]):.0f}pt"'
    return Markup(inner.replace(width[0], style, 1).replace(height[0], "", 1))


def number(value: float | None, form: str = ".1f") -> str:
    """A number with a true minus sign; an en dash where there is none."""
    return "–" if value is None else format(value, form).replace("-", "−")


def interval(one: Any, form: str = ".1f") -> str:
    """`low to high` of anything that has them."""
    return f"{number(one.low, form)} to {number(one.high, form)}"


def took(seconds: float) -> str:
    """`12 s`, `3 min`, `1.5 h`."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def broken(name: str) -> Markup:
    """A name that may go on in the next line after each `_`."""
    return Markup("_<wbr>").join(name.split("_"))


def csv_uri(text: str) -> str:
    """A table to save, within the page."""
    return f"data:text/csv;base64,{base64.b64encode(text.encode()).decode()}"

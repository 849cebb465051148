"""A data folder as one HTML page that needs no other file: rows, images, verdicts and rejects, to search and filter.

All text is escaped, and the page's own policy lets no script but its own run, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drift.data import tables
from drift.data.chains.generations import SUMMARY_FILE
from drift.data.exports import plots
from drift.data.exports.look import known_rows
from drift.data.exports.sections import Draw, Section, sections_of
from drift.ground.artifacts import PROVENANCE, read_json, write_text
from drift.ground.errors import DataError

SCRIPT, TEMPLATE = "page.js.jinja", "page.html.jinja"


def write_page(folder: Path, page: Path, *, problems: Path | None = None, limit: int = 200, seed: int = 0) -> str:
    """Write what ``folder`` holds to the file ``page``: at most ``limit`` rows, and as many rejects, drawn by ``seed``.

    Questions and images of chains come from ``problems``, or from the problems that the folder's provenance names.
    Returns how many of how many are shown. Raises DataError: no data folder, or the page cannot be written.
    """
    sections = sections_of(folder, problems, Draw(limit, seed))
    shown = ", ".join(f"{len(one.entries):,} of {one.total:,} {one.name}" for one in sections)
    provenance = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    html = _render(
        {
            "name": folder.resolve().name,
            "shown": shown,
            "provenance": provenance,
            "sections": sections,
            "funnel": read_json(funnel) if (funnel := folder / tables.FUNNEL_FILE).is_file() else [],
            "summary": _summary(folder),
            "figures": _figures(folder),
            **{f"{name}s": _values(sections, name) for name in ("reason", "source", "kind")},
        }
    )
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, html)
    except OSError as error:
        raise DataError(f"{page}: cannot be written ({error.strerror}); choose another --out") from error
    return shown


def _render(content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = environment.get_template(SCRIPT).render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(TEMPLATE).render(content, script=Markup(script), script_sha256=digest)


def _values(sections: list[Section], name: str) -> list[str]:
    """What a filter can choose from."""
    return sorted({value for section in sections for entry in section.entries if (value := getattr(entry, name))})


def _summary(folder: Path) -> dict[str, Any]:
    """The counts of generate, which has no funnel."""
    content = read_json(folder / SUMMARY_FILE) if (folder / SUMMARY_FILE).is_file() else {}
    return {name.replace("_", " "): value for name, value in content.items() if isinstance(value, int | float)}


def _figures(folder: Path) -> list[tuple[str, str]]:
    """(label, image) of what is known of a training set's chains."""
    if not (folder / tables.TRAIN_FILE).is_file():
        return []
    rows = list(known_rows(folder / tables.TRAIN_FILE, ("pass_rate", "n_tokens")))
    drawn = plots.of_chains(rows)
    uri = "data:image/svg+xml;base64,"
    return [(plots.LABELS[name], uri + base64.b64encode(svg.encode()).decode()) for name, svg in drawn]

"""The table as Markdown, LaTeX and CSV. What is missing is a dash, and why stands below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas

from drift.config.catalog import Role
from drift.ground.artifacts import write_text
from drift.planning.ablation.table import Effect, Measure, Row, Table

MISSING, NOT_YET = "—", "not made yet"
FORMATS = ("md", "csv", "tex")
BESIDE = ("method", "column", "ours", "published", "")


def markdown(table: Table) -> str:
    """Heading, table, what its columns mean, the published numbers, and why cells are missing."""
    parts = [f"## {table.title}", _lines(_frame(table)), caption(table)]
    if sentence := not_comparable(table):
        parts += [f"Published: {table.source}.", f"**{sentence}**"]
    elif beside := published(table):
        parts += [f"Published: {table.source}.", _lines(pandas.DataFrame(beside, columns=list(BESIDE)))]
    if said := missing(table):
        parts.append("\n".join(f"- {line}" for line in said))
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    """A `tabular` for booktabs, with its caption."""
    frame = _frame(table)
    style = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    align = "l" + "r" * (len(frame.columns) - 1)
    text = style.to_latex(hrules=True, column_format=align, caption=f"{table.title}. {_escaped(caption(table))}")
    return str(text).replace("±", r"$\pm$").replace("−", "-").replace("Δ", r"$\Delta$").replace(MISSING, "--")


def csv(table: Table) -> str:
    """A line per row and column, role means with their difference among them: numbers, not texts."""
    return str(pandas.DataFrame(_records(table), columns=list(RECORD)).to_csv(index=False))


def write_tables(folder: Path, table: Table) -> list[Path]:
    """`table.md`, `table.csv` and `table.tex` below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(table), "csv": csv(table), "tex": latex(table)}
    for form, text in texts.items():
        write_text(folder / f"table.{form}", text)
    return [folder / f"table.{form}" for form in texts]


def caption(table: Table) -> str:
    """What the columns mean."""
    return (
        f"Percent right, mean ± deviation over seeds. Δ: paired difference to {table.against} in points, with its "
        f"{table.confidence:.0%} interval over questions (clustered as in the gate; another seed is not in it) and its "
        f"own deviation over seeds; p: of that interval, by Holm over the rows. (2/3): two of three cells are there."
    )


def missing(table: Table) -> list[str]:
    """A sentence for each cell and reason: which rows have failed, or are not made yet."""
    together: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        for cell, reason in row.missing.items():
            together.setdefault((cell, reason or NOT_YET), []).append(row.name)
    return [f"{cell}, {', '.join(rows)}: {reason}" for (cell, reason), rows in together.items()]


def measured(table: Table) -> dict[str, list[str]]:
    """The methods, and of each benchmark's column what they have: texts by their heads."""
    columns = {one: [_measure(row.columns.get(one), row.seeds) for row in table.rows] for one in table.columns}
    return {"method": [row.name for row in table.rows], **columns}


def compared(table: Table) -> dict[str, list[str]]:
    """The same of each role: its mean, the difference, and how sure that is."""
    found: dict[str, list[str]] = {}
    for role in table.roles:
        texts = zip(*(_role(row, role) for row in table.rows), strict=True)
        found |= zip((role, f"Δ {role}", f"p {role}"), map(list, texts), strict=True)
    return found


def _frame(table: Table) -> pandas.DataFrame:
    return pandas.DataFrame(measured(table) | compared(table))


def _role(row: Row, role: Role) -> tuple[str, str, str]:
    effect = row.effects.get(role)
    return _measure(row.roles.get(role), row.seeds), _effect(effect), MISSING if effect is None else _p(effect.holm)


def _measure(measure: Measure | None, seeds: int) -> str:
    if measure is None:
        return MISSING
    spread = "" if measure.deviation is None else f" ± {measure.deviation:.1f}"
    return f"{measure.mean:.1f}{spread}" + (f" ({measure.seeds}/{seeds})" if measure.seeds < seeds else "")


def _effect(effect: Effect | None) -> str:
    if effect is None:
        return MISSING
    spread = "" if effect.deviation is None else f" ± {effect.deviation:.1f}"
    return f"{effect.points:+.1f} [{effect.low:+.1f}, {effect.high:+.1f}]{spread}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _lines(frame: pandas.DataFrame) -> str:
    heads = [str(head) for head in frame.columns]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(str(text).replace('|', '/') for text in row)} |" for row in rows)


def not_comparable(table: Table) -> str:
    """The sentence, where no published number can be compared, for one reason; else empty."""
    verdicts = {one.verdict for row in table.rows for one in row.published}
    verdict = next(iter(verdicts)) if len(verdicts) == 1 else ""
    return f"{verdict[0].upper()}{verdict[1:]}." if verdict.startswith("not comparable") else ""


def published(table: Table) -> list[list[str]]:
    """Rows of `BESIDE`: the published numbers."""
    return [
        [row.name, one.column, _number(one.ours), f"{one.published:.2f}".rstrip("0").rstrip("."), one.verdict]
        for row in table.rows
        for one in row.published
    ]


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _escaped(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_")


RECORD = (
    "method", "column", "mean", "deviation", "seeds", "of",
    "difference", "low", "high", "p", "p_holm", "difference_deviation",
    "published", "verdict", "missing",
)  # fmt: skip


def _records(table: Table) -> list[dict[str, Any]]:
    return [record for row in table.rows for record in _records_of(table, row)]


def _records_of(table: Table, row: Row) -> list[dict[str, Any]]:
    why = "; ".join(f"{cell}: {reason or NOT_YET}" for cell, reason in row.missing.items())
    beside: dict[str, dict[str, Any]] = {
        one.column: {"published": one.published, "verdict": one.verdict} for one in row.published
    }
    common: dict[str, Any] = {"method": row.name, "of": row.seeds, "missing": why}
    columns = [
        common | {"column": name} | _measured(row.columns.get(name)) | beside.get(name, {}) for name in table.columns
    ]
    roles = [
        common | {"column": role} | _measured(row.roles.get(role)) | _differs(row.effects.get(role))
        for role in table.roles
    ]
    return columns + roles


def _measured(measure: Measure | None) -> dict[str, Any]:
    if measure is None:
        return {"seeds": 0}
    return {"mean": measure.mean, "deviation": measure.deviation, "seeds": measure.seeds}


def _differs(effect: Effect | None) -> dict[str, Any]:
    if effect is None:
        return {}
    return {
        "difference": effect.points,
        "low": effect.low,
        "high": effect.high,
        "p": effect.p,
        "p_holm": effect.holm,
        "difference_deviation": effect.deviation,
    }

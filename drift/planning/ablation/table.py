"""The table of an ablation, from whatever is there: methods by benchmarks, mean and deviation over cells' seeds.

Δ    paired difference to the arm compared with, of the same cell: the mean over seeds of every question's difference,
     clustered as in the gate (`drift.gate.statistics`), with its interval. It speaks of questions, for these trained
     models; what another seed would give is said by the deviations
p    of that interval (`Difference.clustered_p`), by Holm over the rows of the table, for each role
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drift.config.catalog import KNOWN, ROLES, Role, columns_of
from drift.config.published import AMBIGUOUS
from drift.evaluate.scores import Scores
from drift.evaluate.table import differences
from drift.planning.ablation.expansion import Ablation
from drift.planning.ablation.results import Found, Key, paired, sums_of
from drift.planning.ablation.schema import PublishedConfig

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measure:
    """Percent: the mean over seeds and its deviation (n − 1); None of a single draw, also where seeds share it."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Effect:
    """Points of percent to the arm compared with. `deviation`: of the difference over seeds."""

    points: float
    low: float
    high: float
    p: float
    """As the interval says it, before Holm."""
    holm: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Beside:
    """A published number beside ours. `verdict`: what it is worth."""

    column: str
    published: float
    ours: float | None
    verdict: str


@dataclass(frozen=True)
class Row:
    """A method. What is not there is absent."""

    name: str
    columns: Mapping[str, Measure]
    roles: Mapping[Role, Measure]
    effects: Mapping[Role, Effect]
    published: Sequence[Beside]
    missing: Mapping[str, str]
    """By name of the cell: why it has no scores; '' if it has not been made."""
    seeds: int
    """Cells that it should have."""


@dataclass(frozen=True)
class Table:
    """All rows in order. `columns`: headline columns by role. `against`: name of the arm compared with."""

    title: str
    against: str
    columns: Mapping[str, Role]
    rows: Sequence[Row]
    confidence: float
    source: str
    """Of the published numbers; '' without."""

    @property
    def roles(self) -> list[Role]:
        """That the columns have."""
        return [role for role in ROLES if role in self.columns.values()]


def tabulate(ablation: Ablation, found: Mapping[Key, Found], confidence: float = CONFIDENCE) -> Table:
    """The table of what ``found`` holds. Raises DataError where two rows were not measured on the same questions."""
    asked = ablation.config.table
    rows = [_row(ablation, name, found, confidence) for name in ablation.rows]
    published = asked.published
    return Table(
        title=asked.title,
        against=asked.against,
        columns=columns_of_table(ablation),
        rows=_with_holm(rows),
        confidence=confidence,
        source=published.source if published else "",
    )


def columns_of_table(ablation: Ablation) -> dict[str, Role]:
    """Headline columns and their roles, in the order of the file or of the benchmarks, reasoning first."""
    roles: dict[str, Role] = {}
    for cell in ablation.cells:
        for name, one in cell.config.evaluate.benchmarks.items():
            roles |= dict.fromkeys(columns_of(name, one.format), one.role)
    chosen = ablation.config.table.columns or sorted(roles, key=lambda name: ROLES.index(roles[name]))
    return {name: roles[name] for name in chosen}


def _row(ablation: Ablation, name: str, found: Mapping[Key, Found], confidence: float) -> Row:
    cells = [cell for cell in ablation.cells if name in cell.rows]
    mine = {cell.name: found.get((cell.name, name), Found(None)) for cell in cells}
    sums = sums_of(mine, ablation.config.table.columns)
    draws = len({one.folder for one in mine.values() if one.folder})
    columns = {column: _measure(values, draws) for column, values in sums.columns.items()}
    other = cells[0].row(ablation.config.table.against)
    theirs = {cell.name: found.get((cell.name, other), Found(None)) for cell in cells}
    published = ablation.config.table.published
    return Row(
        name=name,
        columns=columns,
        roles={role: _measure(values, draws) for role, values in sums.roles.items()},
        effects={} if name == other else _effects(mine, theirs, ablation.config.table.columns, confidence),
        published=beside_published(published, name, columns, [one.scores for one in mine.values() if one.scores]),
        missing={cell: one.reason for cell, one in mine.items() if one.folder is None},
        seeds=len(cells),
    )


def _measure(values: Mapping[str, float], draws: int) -> Measure:
    every = list(values.values())
    return Measure(float(np.mean(every)), _deviation(every) if draws > 1 else None, len(every))


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _effects(
    mine: Mapping[str, Found], theirs: Mapping[str, Found], columns: Sequence[str], confidence: float
) -> dict[Role, Effect]:
    """Of each role, over the cells that have both; none without any."""
    both = [cell for cell in mine if mine[cell].folder and theirs[cell].folder]
    if not both:
        return {}
    ours, others = ([folder for cell in both if (folder := one[cell].folder)] for one in (mine, theirs))
    comparison = paired(ours, others, columns, confidence)
    sums = [sums_of({cell: one[cell] for cell in both}, columns) for one in (mine, theirs)]
    return {
        role: Effect(
            points=difference.points,
            low=difference.low,
            high=difference.high,
            p=(p := difference.clustered_p),
            holm=p,
            deviation=_deviation([sums[0].roles[role][cell] - sums[1].roles[role][cell] for cell in both]),
            seeds=len(both),
        )
        for role in ROLES
        if (difference := comparison.role(role)) is not None
    }


def _with_holm(rows: Sequence[Row]) -> list[Row]:
    """Every effect's p by Holm over the rows that have one, for each role."""
    from statsmodels.stats.multitest import multipletests

    adjusted: dict[tuple[str, Role], float] = {}
    for role in ROLES:
        tested = {row.name: row.effects[role].p for row in rows if role in row.effects}
        holm = multipletests(list(tested.values()), method="holm")[1] if tested else []
        adjusted |= {(name, role): float(p) for name, p in zip(tested, holm, strict=True)}
    return [
        replace(row, effects={role: replace(one, holm=adjusted[row.name, role]) for role, one in row.effects.items()})
        for row in rows
    ]


def beside_published(
    published: PublishedConfig | None, name: str, columns: Mapping[str, Measure], scores: Sequence[Scores]
) -> list[Beside]:
    """Every published number of a row, with what it is worth beside ours, which ``scores`` were made."""
    if published is None:
        return []
    found = []
    for column, number in published.percent(name).items():
        ours = columns[column].mean if column in columns else None
        found.append(Beside(column, number, ours, _verdict(published, column, number, ours, scores)))
    return found


def _verdict(
    published: PublishedConfig, column: str, number: float, ours: float | None, scores: Sequence[Scores]
) -> str:
    """`reproduced`, how far away it is, or why the two cannot be compared."""
    if why := published.why_not or _why_not(column, scores):
        return f"not comparable: {why}"
    if ours is None:
        return "—"
    within = abs(ours - number) <= published.tolerance
    return "reproduced" if within else f"{ours - number:+.1f} points away"


def _why_not(column: str, scores: Sequence[Scores]) -> str:
    """What of the scores or of the publication forbids a comparison; '' if nothing does."""
    benchmark = next((name for one in scores for name, b in one.benchmarks.items() if column in b.columns), "")
    if scores and benchmark not in KNOWN:
        return f"{column} is not the published benchmark"
    if benchmark in AMBIGUOUS:
        return "the paper does not say which of its scores it is"
    made = [said for one in scores[:1] for said in differences(one)]
    return f"made with another {', '.join(made)}" if made else ""

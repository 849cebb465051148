"""The file of an ablation: a base, the arms kept from it, grids of arms, seeds, what needs another run, the table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from drift.config.file import read_yaml, resolved
from drift.config.published import TOLERANCE
from drift.config.section import Name, Positive, Section, validate

Values = dict[str, Any]
"""An axis: what is written into names, and the value."""


class GridConfig(Section):
    """Arms from axes: one for every combination of their values."""

    name: str
    """Of each arm, with the label of every axis in braces: `drift_{scale}_{alpha}`."""
    axes: dict[str, Values] = Field(min_length=1)
    """Values by axis: a list, or a mapping from labels to values."""
    arm: dict[str, Any]
    """Dotted keys below the arm: `train.prior.scale: "{scale}"`; a text that is one brace alone is the axis's value."""

    @field_validator("axes", mode="before")
    @classmethod
    def _labelled(cls, axes: Any) -> Any:
        """Lists as mappings: a value's label is how it is written."""
        if not isinstance(axes, dict):
            return axes
        return {axis: _by_label(axis, values) for axis, values in axes.items()}

    @model_validator(mode="after")
    def _names_tell_arms_apart(self) -> Self:
        unnamed = [axis for axis, values in self.axes.items() if len(values) > 1 and f"{{{axis}}}" not in self.name]
        if unnamed:
            raise ValueError(
                f"grid.name: '{self.name}' does not say which '{unnamed[0]}'; write {{{unnamed[0]}}} in it"
            )
        return self

    def choices(self) -> Iterator[dict[str, tuple[str, Any]]]:
        """(label, value) of every axis, for each arm."""
        for chosen in itertools.product(*(values.items() for values in self.axes.values())):
            yield dict(zip(self.axes, chosen, strict=True))


def _by_label(axis: str, values: Any) -> Any:
    if isinstance(values, dict):
        return {str(label): value for label, value in values.items()}
    if not isinstance(values, list):
        return values
    if bad := [value for value in values if isinstance(value, dict | list)]:
        raise ValueError(f"grid.axes.{axis}: {bad[0]} needs a label; write label: value")
    return {str(value): value for value in values}


class PublishedConfig(Section):
    """Numbers of a paper, to stand beside ours."""

    source: str
    """Which table of which paper."""
    columns: tuple[str, ...] = Field(min_length=1)
    rows: dict[str, tuple[float | None, ...]]
    """Percent by row and column; null: not reported."""
    why_not: str | None = None
    """Why no number here can be compared with ours, where the scores themselves do not say it."""
    tolerance: Positive = TOLERANCE
    """Points within which a number counts as reproduced."""

    @model_validator(mode="after")
    def _rows_are_whole(self) -> Self:
        for name, row in self.rows.items():
            if len(row) != len(self.columns):
                raise ValueError(f"table.published.rows.{name}: {len(row)} numbers for {len(self.columns)} columns")
        return self

    def percent(self, row: str) -> dict[str, float]:
        """The published numbers of a row, by column."""
        return {
            column: value
            for column, value in zip(self.columns, self.rows.get(row, ()), strict=False)
            if value is not None
        }


class TableConfig(Section):
    """Which rows and columns, and what the rows are compared with."""

    title: str
    rows: tuple[str, ...] = ()
    """Names of arms, `vlm` for the unmodified model, each behind `LABEL/` of every axis of `across`; empty: all."""
    columns: tuple[str, ...] = ()
    """Headline columns of benchmarks; empty: all. Means of roles are over these."""
    against: Name = "vlm"
    """The arm that every row is compared with, within the same run."""
    published: PublishedConfig | None = None


class AblationConfig(Section):
    """The whole file."""

    name: Name
    about: str = ""
    """What is asked, in a sentence."""
    base: str
    """The configuration that all cells are made from, beside this file."""
    changes: dict[str, Any] = Field(default={})
    """Keys over the base, for all cells; null takes out what has a name."""
    arms: tuple[Name, ...] | None = None
    """Of the base's arms, those that stay; null keeps all."""
    grid: tuple[GridConfig, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    seeded: Literal["chain", "training"] = "chain"
    """What another seed makes anew: the whole chain from the teacher on, or trainings and random merges alone."""
    across: dict[Name, dict[Name, dict[str, Any]]] = Field(default={})
    """Axes that need a run of their own: dotted keys of the configuration by axis and label; null takes out."""
    table: TableConfig

    @model_validator(mode="after")
    def _each_seed_once(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} has one twice; a seed is one draw")
        return self


def read_ablation(path: Path) -> AblationConfig:
    """Read and validate a file; it may `extends:` another. Raises ConfigError, one line."""
    return validate(AblationConfig, resolved(read_yaml(path), str(path)))

"""From an ablation's file to its cells: one configuration per combination of `across` and seed, all arms within it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drift.config.catalog import columns_of
from drift.config.chain import Config
from drift.config.file import check_taken_out, overridden, read_raw, resolved
from drift.config.gate import GateConfig
from drift.config.models import RANDOM_MERGES
from drift.config.section import suggest, validate
from drift.ground.errors import ConfigError
from drift.planning.ablation.identity import BASELINE, arm_identities
from drift.planning.ablation.schema import AblationConfig, GridConfig, read_ablation

NEVER = 100.0
"""Points: no gain is larger, so no gate passes and nothing is registered. An ablation compares; it puts nothing into
service."""

Tree = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of the chain: labels of `across` in its order, a seed, and the configuration."""

    labels: tuple[str, ...]
    seed: int
    config: Config
    arms: Mapping[str, str]
    """The arm of the configuration by each name; names of one and the same arm share it."""

    @property
    def name(self) -> str:
        return "-".join([*self.labels, f"seed{self.seed}"])

    def row(self, arm: str) -> str:
        """The name of an arm's row in the table; all seeds share it."""
        return "/".join([*self.labels, arm])

    @property
    def rows(self) -> dict[str, str]:
        """The arm, or `vlm`, of every row."""
        return {self.row(name): arm for name, arm in {BASELINE: BASELINE, **self.arms}.items()}


@dataclass(frozen=True)
class Ablation:
    """A file with its cells, and the base's gate, whose margins the plots show."""

    config: AblationConfig
    cells: tuple[Cell, ...]
    gate: GateConfig

    @property
    def rows(self) -> list[str]:
        """Those of the table: as the file lists them, or every one, in the order of the cells."""
        found = list(dict.fromkeys(row for cell in self.cells for row in cell.rows))
        return list(self.config.table.rows) or found

    def cells_named(self, names: Sequence[str]) -> tuple[Cell, ...]:
        """Some cells, in the file's order; all where none is named. Raises ConfigError for one that there is not."""
        known = [cell.name for cell in self.cells]
        for name in names:
            if name not in known:
                raise ConfigError(f"--cell: {self.config.name} has no cell '{name}'{suggest(name, known)}")
        return tuple(cell for cell in self.cells if not names or cell.name in names)


def expand(path: Path, overrides: Sequence[str] = ()) -> Ablation:
    """Read a file and make its cells. ``overrides``: `key=value` and `~key` of the configuration of all cells.

    Raises ConfigError, one line: for a key of the file, of the base, or of a cell, which is then named.
    """
    config = read_ablation(path)
    base = read_raw(path.parent / config.base)
    tree = overridden(OmegaConf.create(_with_arms(config, base, str(path))), overrides)
    common = resolved(tree, str(path))
    across = [list(values.items()) for values in config.across.values()]
    cells = tuple(
        _cell(config, common, dict(chosen), seed) for chosen in itertools.product(*across) for seed in config.seeds
    )
    ablation = Ablation(config, cells, validate(Config, base).gate)
    _check_table(ablation, path)
    return ablation


def _with_arms(config: AblationConfig, base: Tree, where: str) -> Tree:
    """The base with the arms that stay, the file's changes, and the grids' arms."""
    kept = list(base.get("arms", {})) if config.arms is None else list(config.arms)
    for name in kept:
        if name not in base.get("arms", {}):
            raise ConfigError(f"{where}: arms: the base has no arm '{name}'{suggest(name, base.get('arms', {}))}")
    tree = {**base, "arms": {name: base["arms"][name] for name in kept}}
    tree = _over(tree, config.changes, f"{where}: changes")
    arms: Tree = dict(tree["arms"])
    for grid in config.grid:
        for name, arm in _grid_arms(grid).items():
            if arms.setdefault(name, arm) != arm:
                raise ConfigError(f"{where}: grid: there is another arm '{name}'; choose another grid.name")
    return {**tree, "arms": arms}


def _over(tree: Tree, changes: Tree, where: str) -> Tree:
    """``changes`` merged over ``tree``; null takes out what has a name."""
    check_taken_out(OmegaConf.create(tree), OmegaConf.create(changes), where)
    try:
        return resolved(OmegaConf.merge(tree, changes), where)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error


def _grid_arms(grid: GridConfig) -> dict[str, Tree]:
    arms = {}
    for chosen in grid.choices():
        labels = {axis: label for axis, (label, _) in chosen.items()}
        arm = OmegaConf.create({})
        for key, value in grid.arm.items():
            OmegaConf.update(arm, key, _filled(value, chosen, labels), force_add=True)
        arms[_formatted(grid.name, labels)] = resolved(arm, "grid")
    return arms


def grid_names(grid: GridConfig, labels: Mapping[str, str]) -> list[str]:
    """Names of the arms of a grid that have these labels on these axes."""
    every = ({axis: label for axis, (label, _) in chosen.items()} for chosen in grid.choices())
    return [_formatted(grid.name, own) for own in every if labels.items() <= own.items()]


def _filled(value: Any, chosen: Mapping[str, tuple[str, Any]], labels: Mapping[str, str]) -> Any:
    """A value of `grid.arm`: an axis's own where it is one brace alone, its label inside a longer text."""
    if isinstance(value, dict):
        return {key: _filled(one, chosen, labels) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, chosen, labels) for one in value]
    if not isinstance(value, str):
        return value
    alone = value[1:-1] if value.startswith("{") and value.endswith("}") else ""
    return copy.deepcopy(chosen[alone][1]) if alone in chosen else _formatted(value, labels)


def _formatted(template: str, labels: Mapping[str, str]) -> str:
    try:
        return template.format(**labels)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"grid: '{template}': {error} is no axis; known: {', '.join(labels)}") from error


def _cell(config: AblationConfig, common: Tree, chosen: Mapping[str, Tree], seed: int) -> Cell:
    labels = tuple(chosen)
    name = "-".join([config.name, *labels, f"seed{seed}"])
    tree = common
    for label, changes in chosen.items():
        tree = _changed(tree, changes, f"across.{label}")
    tree = _seeded(tree, seed, config.seeded)
    tree = tree | {"name": name, "tracking": {**tree.get("tracking", {}), "experiment": config.name}}
    tree = tree | {"gate": _closed_gate(tree), "register": {"model": f"{config.name}-ablation", "promotion": "manual"}}
    try:
        whole = validate(Config, tree)
    except ConfigError as error:
        raise ConfigError(f"cell {name}: {error}") from error
    return _once(labels, seed, whole)


def _changed(tree: Tree, changes: Tree, where: str) -> Tree:
    """Dotted keys set in ``tree``."""
    return _over(tree, OmegaConf.to_container(_dotted(changes)), where)  # type: ignore[arg-type]


def _dotted(changes: Tree) -> Any:
    nested = OmegaConf.create({})
    for key, value in changes.items():
        OmegaConf.update(nested, key, value, force_add=True)
    return nested


def _seeded(tree: Tree, seed: int, seeded: str) -> Tree:
    """The whole chain's seed, or that of trainings; a random merge draws anew in both."""
    arms = {name: _drawn(arm, seed) for name, arm in tree["arms"].items()}
    if seeded == "chain":
        return {**tree, "seed": seed, "arms": arms}
    return {**tree, "train": {**tree.get("train", {}), "seed": seed}, "arms": arms}


def _drawn(arm: Any, seed: int) -> Any:
    merge = arm.get("merge") if isinstance(arm, dict) else None
    if not (isinstance(merge, dict) and merge.get("method") in RANDOM_MERGES):
        return arm
    return {**arm, "merge": {"seed": seed, **merge}}


def _closed_gate(tree: Tree) -> Tree:
    """The base's gate over the arms that are there, which never passes."""
    gate, arms = tree.get("gate", {}), tree["arms"]
    trained = [name for name, arm in arms.items() if isinstance(arm, dict) and arm.get("delta")]
    candidate = gate.get("candidate") if gate.get("candidate") in arms else next(iter([*trained, *arms]), "")
    return {**gate, "candidate": candidate, "beats": [], "min_reasoning_gain": NEVER}


def _once(labels: tuple[str, ...], seed: int, config: Config) -> Cell:
    """Arms that are one under several names are made once; a Δ that no arm uses is not made."""
    first: dict[str, str] = {}
    arms = {name: first.setdefault(identity, name) for name, identity in arm_identities(config).items()}
    return Cell(labels, seed, with_arms(config, list(first.values())), arms)


def with_arms(config: Config, names: list[str]) -> Config:
    """A configuration with some of its arms alone, and the Δs that they use. Raises ConfigError for none."""
    arms = {name: config.arms[name] for name in names}
    used = set().union(*(arm.used_deltas for arm in arms.values()))
    deltas = {name: delta for name, delta in config.deltas.items() if name in (used or list(config.deltas)[:1])}
    gate = config.gate if config.gate.candidate in arms else _candidate(config.gate, names)
    return config.model_copy(update={"arms": arms, "deltas": deltas, "gate": gate})


def _candidate(gate: GateConfig, names: list[str]) -> GateConfig:
    return gate.model_copy(update={"candidate": names[0]})


def _check_table(ablation: Ablation, path: Path) -> None:
    """Raise ConfigError for a row, a column or an arm to compare with that no cell has."""
    table = ablation.config.table
    rows = {row for cell in ablation.cells for row in cell.rows}
    for row in table.rows:
        if row not in rows:
            raise ConfigError(f"{path}: table.rows: no cell has '{row}'{suggest(row, rows)}")
    for cell in ablation.cells:
        known = [BASELINE, *cell.arms]
        if table.against not in known:
            hint = suggest(table.against, known)
            raise ConfigError(f"{path}: table.against: cell {cell.name} has no arm '{table.against}'{hint}")
    columns = {column for cell in ablation.cells for column in columns_of_cell(cell)}
    for column in table.columns:
        if column not in columns:
            raise ConfigError(f"{path}: table.columns: no benchmark has '{column}'{suggest(column, sorted(columns))}")


def columns_of_cell(cell: Cell) -> list[str]:
    """The headline columns that a cell's benchmarks have."""

    benchmarks = cell.config.evaluate.benchmarks
    return [column for name, one in benchmarks.items() for column in columns_of(name, one.format)]

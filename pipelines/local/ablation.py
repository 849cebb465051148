"""An ablation on this machine: a run of the chain per cell, gone on where it stopped, and its results found again.

Nothing is remembered of an ablation but its runs. Results are found by what they rest on
(`drift.planning.ablation.identity`), in whatever run of this folder they were made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drift.config.chain import Config
from drift.config.places import PER_ARM
from drift.config.plan import plan
from drift.config.section import validate
from drift.ground.errors import ConfigError, DataError, PipelineError
from drift.planning.ablation.expansion import Ablation, Cell, with_arms
from drift.planning.ablation.identity import result_identities
from drift.planning.ablation.results import Found, Key, Known
from drift.tracking.telling.journal import read
from pipelines.local.past import PastRun, past_runs
from pipelines.local.run import Runner, StepEvent
from pipelines.local.run import run as run_chain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellResult:
    """How a cell ended: what failed of it, by arm ('' for the whole cell)."""

    cell: str
    failed: Mapping[str, str]


def run(
    ablation: Ablation,
    *,
    cells: Sequence[str] = (),
    on_event: Callable[[StepEvent], None] | None = None,
    on_cell: Callable[[Cell], None] | None = None,
    runner: Runner = "subprocess",
) -> list[CellResult]:
    """Every cell, or those named, one after the other: an arm that fails is left out of its cell, and a cell that fails
    stops no other.

    What an earlier call has finished comes from the cache. KeyboardInterrupt and SystemExit pass, after the steps at
    work have ended; ServiceError and ConfigError too: they would meet every cell.
    """
    chosen = ablation.cells_named(cells)
    for cell in chosen:
        plan(cell.config)  # what one of them lacks is said before any is paid for
    results = []
    for cell in chosen:
        if on_cell:
            on_cell(cell)
        results.append(CellResult(cell.name, _run_cell(cell.config, on_event, runner)))
    return results


def _run_cell(config: Config, on_event: Callable[[StepEvent], None] | None, runner: Runner) -> dict[str, str]:
    """Run a cell until all of its arms that can be made are made; what failed, by arm."""
    failed: dict[str, str] = {}
    while left := [name for name in config.arms if name not in failed]:
        try:
            run_chain(with_arms(config, left), on_event=on_event, runner=runner)
            return failed
        except PipelineError as error:
            new = {arm: said for arm, said in _failed_arms(config).items() if arm in left}
            if not new:
                return failed | {"": str(error)}
            failed |= new
            log.warning("%s: goes on without %s", config.name, ", ".join(new))
    return failed


def _failed_arms(config: Config) -> dict[str, str]:
    """The arms that failed in the newest run of this name."""
    latest = next((one for one in past_runs(Path(config.runs).resolve()) if _is_of(one, config.name)), None)
    return failures(latest) if latest else {}


def failures(run: PastRun) -> dict[str, str]:
    """What steps of a run said that failed and did not come to a good end later, by arm, '' outside the loop."""
    said: dict[tuple[str, str], str] = {}
    for event, _ in read(run.folder.path):
        key = (event["step"], event["arm"])
        if event["event"] == "ended" and event["status"] == "FAILED" and event["step"] != "pipeline":
            said[key] = str(event.get("error") or "failed")
        elif event["event"] in ("ended", "cached"):
            said.pop(key, None)
    return {arm.split(" ")[0] if step in PER_ARM else "": f"{step}: {error}" for (step, arm), error in said.items()}


def found(ablation: Ablation) -> dict[Key, Found]:
    """What is there of every row in every cell, from all runs in the cells' folders; a failed one with its reason."""
    known: dict[Path, Known] = {}
    results: dict[Key, Found] = {}
    for cell in ablation.cells:
        runs = Path(cell.config.runs).resolve()
        if runs not in known:
            known[runs] = _known(runs)
        identities = result_identities(cell.config)
        results |= {(cell.name, row): known[runs].found(identities[arm]) for row, arm in cell.rows.items()}
    return results


def _known(runs: Path) -> Known:
    """Of all runs in a folder; the latest counts."""
    known = Known()
    for run, identities in _readable(past_runs(runs) if runs.is_dir() else ()):
        known.note(identities, run.scores, failures(run))
    return known


def _readable(runs: Sequence[PastRun]) -> Iterator[tuple[PastRun, dict[str, str]]]:
    """Runs whose configuration this version reads, and the identities of their results."""
    for run in runs:
        try:
            if run.config:
                yield run, result_identities(validate(Config, run.config))
        except (ConfigError, DataError) as error:
            log.info("%s: its results are not looked at (%s)", run.name, error)


def _is_of(run: PastRun, name: str) -> bool:
    return bool(run.folder.state["name"] == name)

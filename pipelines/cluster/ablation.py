"""An ablation on a cluster: one run of the pipeline per cell, with the cells' shared steps from Kubeflow's cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from drift.config.chain import Config
from drift.config.places import PER_ARM
from drift.config.section import validate
from drift.evaluate.scores import FILE
from drift.ground.errors import ConfigError
from drift.planning.ablation.expansion import Ablation
from drift.planning.ablation.identity import BASELINE, result_identities
from drift.planning.ablation.results import Found, Key, Known
from drift.tracking.runs.records import Records, StepRecord
from pipelines.cluster.follow import ClusterRun, OnEvent, OnNote
from pipelines.cluster.server import Target
from pipelines.cluster.submit import submit as submit_chain

log = logging.getLogger(__name__)

Steps = Mapping[tuple[str, str], StepRecord]
FETCHED = "fetched"
"""In the folder of runs: scores from MLflow, by the run of their step."""


def submit(
    ablation: Ablation,
    target: Target,
    *,
    wait: bool = True,
    on_event: OnEvent | None = None,
    on_note: OnNote = lambda note: None,
    poll_seconds: float = 5.0,
) -> list[ClusterRun]:
    """Every cell as a run named after it, in the file's order.

    With `wait` one after the other, so that a cell finds in the cache what those before it have made; a cell that fails
    stops no other. Without, all at once: what cells share is then made by each that comes to it. Raises what
    `pipelines.cluster.submit.submit` raises.
    """
    return [
        submit_chain(
            cell.config,
            target,
            run_name=cell.config.name,
            wait=wait,
            on_event=on_event,
            on_note=on_note,
            poll_seconds=poll_seconds,
        )
        for cell in ablation.cells
    ]


def found(ablation: Ablation, records: Records) -> dict[Key, Found]:
    """What runs on a cluster have told MLflow of every row in every cell; their scores are fetched, once.

    Raises ServiceError.
    """
    identities = {cell.name: result_identities(cell.config) for cell in ablation.cells}
    wanted = {one for of_cell in identities.values() for one in of_cell.values()}
    folder = Path(ablation.cells[0].config.runs).resolve() / FETCHED
    known = Known()
    for raw, steps in records.configured():
        told = {arm: one for arm, one in _identities(raw).items() if one in wanted}
        known.note(told, partial(_scores, records, steps, folder), _failures(steps))
        if wanted <= known.scores.keys():
            break  # each run costs requests, and a server may have thousands
    return {
        (cell.name, row): known.found(identities[cell.name][arm])
        for cell in ablation.cells
        for row, arm in cell.rows.items()
    }


def _identities(raw: Mapping[str, object]) -> dict[str, str]:
    try:
        return result_identities(validate(Config, raw))
    except ConfigError as error:  # of another version
        log.info("%s: its results are not looked at (%s)", raw.get("name"), error)
        return {}


def _scores(records: Records, steps: Steps, folder: Path, arm: str) -> Path | None:
    step = steps.get(("evaluate_vlm", "") if arm == BASELINE else ("evaluate_arm", arm))
    return records.fetch(step, "scores", FILE, folder) if step else None


def _failures(steps: Steps) -> dict[str, str]:
    failed = {key: step.error for key, step in steps.items() if step.status == "FAILED"}
    return {arm if step in PER_ARM else "": f"{step}: {error}" for (step, arm), error in failed.items()}

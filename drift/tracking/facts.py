"""What is known of the run around a step: when it began, by which command, where, how long its steps took, its pages.

On this machine the run's folder tells it, on a cluster MLflow. A fact that nobody has told is left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.ground.artifacts import read_json
from drift.ground.errors import DataError, ServiceError
from drift.tracking.cluster import KFP_UI
from drift.tracking.runs.records import RunRecord, read_run
from drift.tracking.steps import RUN_DIR
from drift.tracking.store import RUN_ID, redact
from drift.tracking.telling.journal import read

log = logging.getLogger(__name__)

COST = "/cost"
"""How the name of a metric ends that is money."""


@dataclass(frozen=True)
class StepFact:
    """A step that has ended. `seconds`: of the work itself, also where this run took it from the cache."""

    step: str
    arm: str
    seconds: float
    cached: bool = False
    cost: float | None = None
    """In the currency of the teacher's price; None where nothing has one."""


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as it is known while its report is written. Empty text is unknown."""

    name: str = ""
    started: str = ""
    command: str = ""
    machine: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    """`MLflow`, `Kubeflow`: addresses of its pages."""
    steps: tuple[StepFact, ...] = ()


def run_facts() -> RunFacts | None:
    """Of the run that this process is a step of; None outside of one, or where it cannot be asked (which is logged)."""
    try:
        if folder := os.environ.get(RUN_DIR):
            return _of_folder(Path(folder))
        run_id = os.environ.get(RUN_ID)
        told = read_run(run_id) if run_id else None
    except (DataError, ServiceError) as error:
        log.warning("the report does not say how the run was made: %s", error)
        return None
    return _of_record(str(run_id), told) if told else None


def _of_folder(folder: Path) -> RunFacts:
    state, events = read_json(folder / "run.json"), [event for event, _ in read(folder)]
    tags: dict[str, str] = next((event["tags"] for event in events if event["event"] == "begun"), {})
    page = str(state.get("mlflow") or "")
    return RunFacts(
        name=folder.name,
        started=str(state.get("started", "")),
        command=redact(tags.get("mlflow.source.name", "")),
        machine=tags.get("drift.host", ""),
        links={"MLflow": page} if page.startswith("http") else {},
        steps=_steps(events),
    )


def _steps(events: list[dict[str, Any]]) -> tuple[StepFact, ...]:
    """The last end of every step, in the order in which they came."""
    costs = {event["key"]: cost for event in events if (cost := _cost(event)) is not None}
    ends = [event for event in events if event.get("seconds") is not None and event["event"] in ("ended", "cached")]
    return tuple(
        {
            event["key"]: StepFact(
                event["step"], event["arm"], event["seconds"], event["event"] == "cached", costs.get(event["key"])
            )
            for event in ends
        }.values()
    )


def _cost(event: Mapping[str, Any]) -> float | None:
    values = [value for name, value, *_ in event.get("metrics", ()) if str(name).endswith(COST)]
    return float(sum(values)) if values else None


def _of_record(run_id: str, told: RunRecord) -> RunFacts:
    kubeflow = os.environ.get(KFP_UI, "").rstrip("/")
    pages = {
        "MLflow": told.url,
        "Kubeflow": told.tags.get("kfp.pipeline_run_url")
        or (f"{kubeflow}/#/runs/details/{run_id}" if kubeflow else ""),
    }
    starts = [step.start for step in told.steps if step.start]
    return RunFacts(
        name=run_id,
        started=min(starts).isoformat(timespec="seconds") if starts else "",
        command=told.tags.get("mlflow.source.name", ""),
        machine=told.tags.get("drift.host", ""),
        links={name: page for name, page in pages.items() if page.startswith("http")},
        steps=tuple(
            StepFact(step.step, step.arm, (step.end - step.start).total_seconds(), step.cached)
            for step in told.steps
            if step.start and step.end
        ),
    )

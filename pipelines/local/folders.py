"""The folders of runs: each run has one, and an unfinished run with the same parameters is continued in its own."""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drift.config.places import SHARDED
from drift.ground.artifacts import SCHEMA, read_json, write_json
from drift.ground.errors import ConfigError, DataError, HeldError, PipelineError
from drift.ground.locks import hold
from drift.tracking import store
from drift.tracking.telling.journal import read

STATE = "run.json"
TASK_LOG = "log.txt"
"""What a task said, in its folder."""
TASKS = "tasks"
"""Of a run's folder: what its steps wrote."""
OVER = ("finished", "superseded")
KNOWN = {"name", "run_id", "parameters_sha256", "started", "status"}
"""What every `run.json` says."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and `run.json`. Status: running, failed, killed, finished or superseded."""

    path: Path
    state: dict[str, Any]

    @property
    def run_id(self) -> str:
        return str(self.state["run_id"])

    def mark(self, status: str, **more: Any) -> RunFolder:
        """The same folder with its new status on disk."""
        state = {**self.state, "status": status, **more}
        write_json(self.path / STATE, state)
        return RunFolder(self.path, state)


def store_of(run: RunFolder) -> str:
    """The MLflow that the run was tracked in; this process's own where that is the same, since it has the password."""
    ours = store.store_uri(run.path.parent)
    recorded = str(run.state.get("mlflow_uri", ""))
    return ours if recorded in ("", store.redact(ours)) else recorded


def create_run(runs: Path, name: str, parameters_sha256: str) -> RunFolder:
    """A new folder `<name>-<UTC time>` below `runs`."""
    now = datetime.now(UTC)
    path = runs / f"{name}-{now:%Y%m%d-%H%M%S}"
    while path.exists():
        path = path.with_name(path.name + "x")
    path.mkdir()
    state = {
        "schema": SCHEMA,
        "name": name,
        "run_id": uuid.uuid4().hex,
        "parameters_sha256": parameters_sha256,
        "started": now.isoformat(timespec="seconds"),
    }
    return RunFolder(path, state).mark("running")


def unfinished_runs(runs: Path, name: str) -> list[RunFolder]:
    """Runs of that name that did not finish, the latest first."""
    return [run for run in _runs_of(runs, name) if run.state["status"] not in OVER]


def last_finished(runs: Path, name: str) -> RunFolder | None:
    """The latest run of that name that finished; None if none did."""
    return next((run for run in _runs_of(runs, name) if run.state["status"] == "finished"), None)


def measured_hours(runs: Path, name: str) -> dict[str, float]:
    """Hours of each step of the last finished run of that name, `arm NAME` for an arm's; all evaluations together, and
    all shards.

    A step from the cache counts as it did when it ran. Empty if no run of that name finished.
    """
    last = last_finished(runs, name)
    events = [event for event, _ in read(last.path)] if last else []
    seconds = {(event["step"], event["arm"]): event["seconds"] for event in events if "seconds" in event}
    hours: defaultdict[str, float] = defaultdict(float)
    for (step, arm), spent in seconds.items():
        hours[_phase(step, arm)] += spent / 3600
    return dict(hours)


def _phase(step: str, arm: str) -> str:
    """The phase of a run (`drift.planning.costs`) that a task is part of."""
    if step.startswith(("evaluate", "answer")):
        return "evaluate"
    return step if step in SHARDED else f"{step} {arm}".strip()


def all_runs(runs: Path) -> Iterator[RunFolder]:
    """Runs of all names, the latest first; what has no `run.json` that can be read, and is a run's, is none."""
    known = []
    for path in runs.glob(f"*/{STATE}"):
        with contextlib.suppress(DataError):
            run = RunFolder(path.parent, read_json(path))
            known += [run] if run.state.keys() >= KNOWN else []
    yield from sorted(known, key=lambda run: (run.state["started"], run.path.name), reverse=True)


def _runs_of(runs: Path, name: str) -> Iterator[RunFolder]:
    """Runs of that name, the latest first."""
    return (run for run in all_runs(runs) if run.state["name"] == name)


@contextlib.contextmanager
def only_one(runs: Path, name: str) -> Iterator[None]:
    """Hold the name: two processes cannot work on runs of one name. Raises PipelineError if another one does."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        lock = hold(runs / f".{name}.lock")
    except HeldError as error:
        raise PipelineError(f"name: a run of '{name}' is at work: {error.holder}; wait for it or stop it") from error
    except OSError as error:
        raise ConfigError(f"runs: {runs} cannot be written ({error.strerror}); set runs to another folder") from error
    with lock:
        yield

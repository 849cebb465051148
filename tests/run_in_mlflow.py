"""What MLflow has of a run, step by step, and what of its folder it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from drift.ground.artifacts import content_sha256, read_json
from pipelines.local.past import find_run, task_folders

PAGE = ("pipeline", "")
"""The run in MLflow that sums up the others."""


@dataclass(frozen=True)
class Kept:
    """What one run in MLflow has: hashes of its files by name, and of those it refers to; parameters, points, data."""

    files: dict[str, str]
    referred: dict[str, str]
    params: dict[str, str]
    curves: dict[str, set[tuple[float, int, int]]]
    datasets: list[str]


def in_mlflow(uri: str, result: Mapping[str, Any]) -> dict[tuple[str, str], Kept]:
    """What the store has of the run of `mlflow_run_id`, by step and arm, and `PAGE`."""
    client = MlflowClient(uri)
    page = client.get_run(result["mlflow_run_id"])
    below = f"tags.`mlflow.parentRunId` = '{page.info.run_id}'"
    runs = [page, *client.search_runs([page.info.experiment_id], below, max_results=1000)]
    return {(run.data.tags["drift.step"], run.data.tags.get("drift.arm", "")): _kept(client, run) for run in runs}


def lacking(folder: Path, found: Mapping[tuple[str, str], Kept]) -> set[str]:
    """The files in a run's folder that its step in MLflow, or its page, neither has nor refers to."""
    steps = {task.folder: key for key, task in find_run(folder.parent, folder.name).tasks.items()}
    failed = {one: (one.name.replace("-", "_"), "") for one in task_folders(folder) if one not in steps}
    owners = {one: found.get(key, found[PAGE]) for one, key in (steps | failed).items()}
    lacks = set()
    for path in folder.rglob("*"):
        owner = next((owners[above] for above in path.parents if above in owners), found[PAGE])
        if path.is_file() and content_sha256(path) not in {*owner.files.values(), *owner.referred.values()}:
            lacks.add(path.relative_to(folder).as_posix())
    return lacks


def _kept(client: MlflowClient, run: Run) -> Kept:
    files = _files(client, run.info.run_id)
    told = [read_json(path) for name, path in files.items() if name.startswith("references/")]
    referred = {file["uri"]: file for one in told for file in one["files"]}
    assert all(Path(uri).stat().st_size == file["bytes"] for uri, file in referred.items())
    return Kept(
        {name: content_sha256(path) for name, path in files.items()},
        {uri: file["sha256"] for uri, file in referred.items()},
        run.data.params,
        {name: _points(client, run, name) for name in run.data.metrics},
        [one.dataset.name for one in run.inputs.dataset_inputs],
    )


def _files(client: MlflowClient, run: str) -> dict[str, Path]:
    if not client.list_artifacts(run):  # of nothing there is no folder
        return {}
    folder = Path(client.download_artifacts(run, ""))
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _points(client: MlflowClient, run: Run, name: str) -> set[tuple[float, int, int]]:
    return {(one.value, one.timestamp, one.step) for one in client.get_metric_history(run.info.run_id, name)}

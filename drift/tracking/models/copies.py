"""The copy of a registered model's files in MLflow: a LoggedModel of the run that it came from.

With a registry elsewhere (MLFLOW_REGISTRY_URI) it is there, since a server names no other's files; its run is a tag.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drift.ground.artifacts import PROVENANCE
from drift.ground.progress import Bar
from drift.tracking import store
from drift.tracking.cluster import tracker_from_environment
from drift.tracking.models import packaging, storage
from drift.tracking.models.registry import FINGERPRINT
from drift.tracking.plugin import TASK

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

MODEL_ID = "drift.model_id"
"""Of a version: the LoggedModel with its files."""
MODEL_TYPE = "vlm"
LONGEST_KEY, LONGEST_VALUE = 250, 6000
"""Characters of a parameter that MLflow keeps."""
_NOT_IN_NAMES = re.compile(r"[/:.%\"']")
"""What the name of a LoggedModel may not hold, unlike a registered model's, such as `catalog.schema.model`."""


@dataclass(frozen=True)
class Content:
    """What lies in MLflow of a model: its folder, its card beside it, and on MLflow's page how it was made."""

    folder: Path
    card: str
    params: Mapping[str, str]


def copy_of(client: MlflowClient, name: str, content: Content, tags: Mapping[str, str]) -> LoggedModel:
    """The model's copy in MLflow, made if there is no whole one yet."""
    run = None if is_elsewhere() else pipeline_run()
    experiment = client.get_run(run).info.experiment_id if run else _experiment(client)
    called = _NOT_IN_NAMES.sub("-", name)
    mine = f"name = '{called}' and tags.`{FINGERPRINT}` = '{tags[FINGERPRINT]}'"
    for found in client.search_logged_models([experiment], mine):
        if str(found.status) == "READY":
            repair(client, found, content)
            return found
        client.finalize_logged_model(found.model_id, "FAILED")
    made = client.create_logged_model(
        experiment,
        name=called,
        source_run_id=run,
        tags=dict(tags),
        params={key[:LONGEST_KEY]: value[:LONGEST_VALUE] for key, value in content.params.items()},
        model_type=MODEL_TYPE,
    )
    with _said_if_it_fails(client, made.model_id):
        _fill(client, made.model_id, content)
    client.finalize_logged_model(made.model_id, "READY")
    return client.get_logged_model(made.model_id)


def tell_scores(client: MlflowClient, copy: LoggedModel, scores: Mapping[str, float]) -> None:
    """Scores as metrics of the copy; MLflow keeps them with a run only, so that a copy without one has none."""
    from mlflow.entities import Metric

    if not copy.source_run_id or copy.metrics:
        return
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0, model_id=copy.model_id) for name, value in scores.items()]
    client.log_batch(copy.source_run_id, metrics=metrics)


def copy_behind(client: MlflowClient, version: ModelVersion) -> LoggedModel | None:
    """The copy with a version's files; None where there is none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    if not (model_id := id_of(version)):
        return None
    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def repair(client: MlflowClient, copy: LoggedModel, content: Content) -> bool:
    """Upload a copy's files again if some are not there whole. Whether that was so."""
    files = storage.repository(str(copy.artifact_location), os.environ[store.URI])
    there = {str(one.path): one.file_size for one in storage.files_below(files)}
    whole = all(there.get(name) == size for name, size in _sizes(content.folder).items())
    if whole and set(packaging.added_to(copy.tags)) <= there.keys():
        return False
    _fill(client, copy.model_id, content)
    return True


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files that make up a model's contents."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {name: size for name, size in files.items() if name != PROVENANCE and not name.startswith(".")}


def id_of(version: ModelVersion) -> str:
    """Of the LoggedModel with a version's files; '' where there is none."""
    source = str(version.source)
    return str(version.tags.get(MODEL_ID, "")) or (source[8:] if source.startswith("models:/m-") else "")


def is_elsewhere() -> bool:
    """Whether the models' files are on another server than the runs."""
    return store.models_uri(os.environ[store.URI]) != os.environ[store.URI]


def run_elsewhere() -> dict[str, str]:
    """The run on another server that a model came from, as a tag: only their own does MLflow link."""
    run = pipeline_run() if is_elsewhere() else None
    return {"drift.run": f"{store.redact(os.environ[store.URI])}#{run}"} if run else {}


def pipeline_run() -> str | None:
    """The MLflow run of the pipeline run this process belongs to, where it does."""
    if run := os.environ.get(store.RUN):
        return run
    tracker = tracker_from_environment() if os.environ.get(store.RUN_ID) or os.environ.get(TASK) else None
    return tracker.parent if tracker else None


@contextlib.contextmanager
def _said_if_it_fails(client: MlflowClient, model_id: str) -> Iterator[None]:
    """A copy whose upload was refused does not look as if it were still at work."""
    try:
        yield
    except Exception:
        with contextlib.suppress(Exception):  # whoever refused the one may refuse the other; the first is told
            client.finalize_logged_model(model_id, "FAILED")
        raise


def _fill(client: MlflowClient, model_id: str, content: Content) -> None:
    """Upload the model, and beside it what MLflow loads it with."""
    _upload(client, model_id, content.folder)
    with tempfile.TemporaryDirectory(prefix="drift-beside-") as aside:
        added = packaging.package(Path(aside), content.folder, content.card, model_id)
        _upload(client, model_id, Path(aside))
    client.set_logged_model_tags(model_id, {packaging.ADDED: " ".join(added)})


def _upload(client: MlflowClient, model_id: str, folder: Path) -> None:
    """File by file, with a bar: MLflow shows none while it sends gigabytes."""
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    with storage.patience(), Bar("upload", sum(sizes.values()), unit="B") as bar:
        for path, size in sizes.items():
            inside = path.parent.relative_to(folder)
            client.log_model_artifact(model_id, str(path), inside.as_posix() if inside.parts else None)
            bar.advance(size)


def _experiment(client: MlflowClient) -> str:
    place = store.models_uri(os.environ[store.URI])
    return store.ensure_experiment(client, place, os.environ.get(store.EXPERIMENT, "drift"))

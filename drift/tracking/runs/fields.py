"""Parameters, numbers, tags and datasets of one run in MLflow, within MLflow's limits, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drift.tracking.runs import tables
from drift.tracking.store import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG_CHARACTERS = 5000
"""MLflow's limit for the value of a tag, in releases before 2.15; 8000 since."""
PARAM_CHARACTERS = 6000
"""MLflow's limit for the value of a parameter."""
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000
"""MLflow's limits for one request."""

_FORBIDDEN_IN_NAMES = re.compile(r"[^\w\-. :/]")


def log_params(client: MlflowClient, run: str, params: Mapping[str, str]) -> None:
    """Parameters cannot change in MLflow: of a retry with other values, the first stay and a tag says so."""
    from mlflow.entities import Param

    wanted = {named(name): redact(value) for name, value in params.items()}
    cut = sorted(name for name, value in wanted.items() if len(value) > PARAM_CHARACTERS)
    wanted = {name: value[:PARAM_CHARACTERS] for name, value in wanted.items()}
    known = client.get_run(run).data.params if wanted else {}
    changed = sorted(name for name in wanted if name in known and known[name] != wanted[name])
    said = {"drift.params_cut": ", ".join(cut), "drift.params_changed": ", ".join(changed)}
    set_tags(client, run, {name: text for name, text in said.items() if text})
    new = [Param(name, value) for name, value in wanted.items() if name not in known]
    for start in range(0, len(new), PARAMS_AT_ONCE):
        client.log_batch(run, params=new[start : start + PARAMS_AT_ONCE])


def log_metrics(client: MlflowClient, run: str, points: Sequence[Sequence[Any]]) -> None:
    """Points of (name, value, milliseconds since 1970, step)."""
    from mlflow.entities import Metric

    metrics = [Metric(named(name), value, stamp, step) for name, value, stamp, step in points]
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run, metrics=metrics[start : start + METRICS_AT_ONCE])


def log_inputs(client: MlflowClient, run: str, inputs: Iterable[Mapping[str, str]]) -> None:
    """Datasets, each {name, digest, uri}."""
    from mlflow.entities import Dataset, DatasetInput

    datasets = [DatasetInput(Dataset(**tables.dataset({**entry, "uri": redact(entry["uri"])}))) for entry in inputs]
    if datasets:
        client.log_inputs(run, datasets=datasets)


def set_tags(client: MlflowClient, run: str, tags: Mapping[str, str]) -> None:
    """In one request; none for no tags."""
    from mlflow.entities import RunTag

    if tags:
        client.log_batch(run, tags=[RunTag(name, fit(value)) for name, value in tags.items()])


def delete_tags(client: MlflowClient, run: str, names: Iterable[str]) -> None:
    """Tags that are there."""
    for name in names:
        client.delete_tag(run, name)


def fit(value: str) -> str:
    """A tag's value as MLflow takes it."""
    return redact(value)[:TAG_CHARACTERS]


def named(name: str) -> str:
    """A name as MLflow takes it."""
    return _FORBIDDEN_IN_NAMES.sub("_", name)

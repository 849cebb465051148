"""Kubeflow's own plugin for MLflow, from release 2.17 on: what it tells a step, and whose runs the parents are then.

An administrator turns it on. Source lines are of Kubeflow Pipelines 2.17.0, under `backend/src/`.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drift.tracking.store import first_line, open_client, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

CONFIG = "KFP_MLFLOW_CONFIG"
"""JSON in every driver and executor (apiserver/plugins/mlflow/handler.go:123, config.go:527)."""
CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Beside it there, from the Secret kfp-mlflow-credentials, by `authType` (common/plugins/mlflow/config.go:99)."""
TASK = "MLFLOW_RUN_ID"
"""The task's own run, with `injectUserEnvVars`."""
SETTINGS = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_WORKSPACE", "MLFLOW_TRACKING_AUTH")
INJECTED = (TASK, *SETTINGS, *CREDENTIALS)
"""All that `injectUserEnvVars` puts into an executor (v2/common/plugins/mlflow/handler.go:141-168). The cluster refuses
a pod that has one of them from a config map too, so no pod of ours has."""


@dataclass(frozen=True)
class Plugin:
    """What `KFP_MLFLOW_CONFIG` says (common/plugins/mlflow/config.go:50)."""

    endpoint: str
    parent: str
    """`parentRunId`: the root, which stands for the whole run. It is fixed when the run is made (apiserver/plugins/
    mlflow/handler.go:110); only drivers and launchers hang a task under its DAG's run, in their memory (v2/common/
    plugins/mlflow/handler.go:198)."""
    experiment_id: str
    settings: dict[str, str]
    """Variables that a client of the endpoint needs."""


def plugin_from_environment() -> Plugin | None:
    """None where the plugin is off, or says something else than it did."""
    text = os.environ.get(CONFIG)
    if not text:
        return None
    try:
        said: dict[str, Any] = json.loads(text)
        return Plugin(str(said["endpoint"]), str(said["parentRunId"]), str(said["experimentId"]), _settings(said))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not as Kubeflow Pipelines 2.17 writes it (%r); the run gets a parent of ours", CONFIG, error)
        return None


def same_address(one: str, other: str) -> bool:
    """Whether two addresses of servers are written alike, up to case, password and the last slash."""
    return redact(one).rstrip("/").lower() == redact(other).rstrip("/").lower()


def root_of(client: MlflowClient, plugin: Plugin) -> Run | None:
    """Kubeflow's root, if this server is the plugin's under whatever address. Raises what MLflow raises."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(plugin.parent)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def link(client: MlflowClient, ours: str, where: str, plugin: Plugin) -> None:
    """Two trees, since the plugin's server is not ours: a tag in each leads to the other, where it can be set."""
    root = f"{redact(plugin.endpoint)}/#/experiments/{plugin.experiment_id}/runs/{plugin.parent}"
    client.set_tag(ours, "kfp.mlflow_run", root)
    try:
        open_client(plugin.endpoint).set_tag(plugin.parent, "drift.mlflow_run", where)
    except Exception as error:
        log.warning("Kubeflow's run in MLflow, %s, cannot be given a link to ours: %s", root, first_line(error))


def _settings(said: dict[str, Any]) -> dict[str, str]:
    """As the plugin itself injects them, where it does."""
    workspace = said.get("workspace")
    kubernetes = {"MLFLOW_TRACKING_AUTH": "kubernetes-namespaced" if workspace else "kubernetes"}
    return {
        **({"MLFLOW_WORKSPACE": str(workspace)} if workspace else {}),
        **(kubernetes if said.get("authType") == "kubernetes" else {}),
        **({"MLFLOW_TRACKING_INSECURE_TLS": "true"} if said.get("insecureSkipVerify") else {}),
    }

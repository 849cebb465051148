"""The MLflow store: where it is, that it answers, and runs found again by key and never made twice.

Only this module, `runs` and `registry` know MLflow. Everything goes through explicit run ids; there is no active run.
The server is MLFLOW_TRACKING_URI; without it, an SQLite store in the folder of runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from drift.ground.errors import ConfigError, ServiceError
from drift.ground.locks import hold
from drift.ground.patience import is_transient
from drift.tracking import limits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

URI = "MLFLOW_TRACKING_URI"
REGISTRY_URI = "MLFLOW_REGISTRY_URI"
"""Where registered models are, if not there."""
EXPERIMENT = "DRIFT_EXPERIMENT"
OURS = "DRIFT_MLFLOW_TRACKING_URI"
"""Our name of URI in a pod, where Kubeflow's plugin may set URI itself."""
RUN_ID = "DRIFT_RUN_ID"
"""The pipeline run of this process, by Kubeflow's name for it."""
RUN = "DRIFT_MLFLOW_RUN_ID"
"""The MLflow run that sums up the pipeline run of this process."""
KEY = "drift.run_key"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_POLITE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
}
"""Where the user did not say otherwise. A server over S3 sends every client to its bucket, reachable or not; what goes
through the server always arrives."""
_AROUND = (
    re.compile(r"failed with error code (\d+) != 200\. Response body: (.*)"),
    re.compile(r"\(Caused by \w+\(.*?\): (.*?)[\"']?\)\)?$"),
)
"""Of an answer its status and what it says; of none at all, why."""
_NO_PATH = re.compile(r"\?|%[0-9a-fA-F]{2}")
"""What an address of SQLite takes for something else than a part of the path."""


def store_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI, or the SQLite store in the folder `runs`. Raises ConfigError for a folder that cannot be in
    such an address."""
    if uri := os.environ.get(URI):
        return uri
    if found := _NO_PATH.search(str(runs.resolve())):
        raise ConfigError(
            f"runs: {runs.resolve()} has '{found.group()}' in it, which the embedded MLflow store would take for "
            f"something else; choose another folder, or set {URI}"
        )
    return f"sqlite:///{runs.resolve()}/mlflow.db"


def registry_uri(uri: str) -> str:
    """Where registered models are: MLFLOW_REGISTRY_URI, or the store at `uri`."""
    return os.environ.get(REGISTRY_URI) or uri


def models_uri(uri: str) -> str:
    """The store of the models' files: a server with registered models can name none but its own. A registry that is no
    server, as `databricks-uc`, takes those of the store at `uri`."""
    registry = registry_uri(uri)
    return registry if registry.startswith(("http", "sqlite")) else uri


def adopt_address() -> None:
    """What a pod calls DRIFT_MLFLOW_TRACKING_URI is MLFLOW_TRACKING_URI from now on, unless that is set."""
    if not os.environ.get(URI) and (ours := os.environ.get(OURS)):
        os.environ[URI] = ours


def modules(uri: str) -> tuple[str, ...]:
    """The modules that a client of the store at `uri` imports in the end, for a process that imports them early."""
    embedded = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
    return ("mlflow", *(embedded if uri.startswith("sqlite:///") else ()))


def use_store(runs: Path) -> None:
    """Make the store of `runs` the one that this process uses, unless MLFLOW_TRACKING_URI names another."""
    os.environ[URI] = store_uri(runs)


def require_store(runs: Path) -> None:
    """The same for who only asks. Raises ConfigError where there is no store yet."""
    if not (os.environ.get(URI) or os.environ.get(REGISTRY_URI) or (runs / "mlflow.db").is_file()):
        raise ConfigError(f"{runs}: no MLflow store there; set {URI}, or name the folder of runs with --runs")
    use_store(runs)


def check_server(uri: str) -> None:
    """Raise ServiceError if no MLflow answers at `uri`, or it refuses: within seconds where nothing is there."""
    client = open_client(uri)
    try:
        client.search_experiments(max_results=1)
    except Exception as error:  # connection, host check, authentication: all kinds
        raise ServiceError(f"{URI}: {answer_of(uri, error)}") from error


def server_version(uri: str) -> str:
    """The version that the server at `uri` says it has; '' for a store without one. Raises ServiceError."""
    if not uri.startswith("http"):
        return ""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(uri), "/version", "GET", max_retries=1, timeout=4)
    if not answer.ok:
        raise ServiceError(f"{URI}: {redact(uri)}/version answers {answer.status_code}; is it an MLflow server?")
    return answer.text.strip()


def open_client(uri: str, *, registry: str = "") -> MlflowClient:
    """A client of the store at `uri`, and of a `registry` elsewhere.

    Opening an SQLite store for the first time is done by one process only.
    """
    limits.begin()
    for name, value in _POLITE.items():
        os.environ.setdefault(name, value)
    # it warns of each retry; we say what came of it
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.model_registry").setLevel(logging.WARNING)  # of each version made
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    try:
        with _first_use(uri) as embedded:
            client = MlflowClient(uri, registry_uri=registry or uri)
            if embedded:
                client.search_experiments(max_results=1)  # makes or migrates the tables
            return client
    except Exception as error:
        raise ServiceError(f"{URI}: '{redact(uri)}' cannot be used ({first_line(error)})") from error


def store_identity(uri: str, experiment: str) -> str:
    """What tells this store from another at the same address: a new database has a new creation time."""
    client = open_client(uri)
    known = client.get_experiment(ensure_experiment(client, uri, experiment))
    return f"{redact(uri)}#{known.experiment_id}@{known.creation_time}"


def ensure_run(
    client: MlflowClient, experiment_id: str, key: str, name: str, tags: Mapping[str, str], began: float | None = None
) -> str:
    """The run with the key, restored if it was deleted, made if there is none, as of `began`. Of two made at once the
    oldest stays, in every process."""
    found = find_runs(client, experiment_id, key) or _restored(client, experiment_id, key)
    if found:
        return str(found[0].info.run_id)
    start = None if began is None else int(began * 1000)
    made = str(client.create_run(experiment_id, start, run_name=name, tags={KEY: key, **tags}).info.run_id)
    first = str(find_runs(client, experiment_id, key)[0].info.run_id)
    if first != made:
        client.delete_run(made)
    return first


def redact(text: str) -> str:
    """`text` without the user and password of any address in it."""
    return _CREDENTIALS.sub("", text)


def page_of(uri: str, experiment_id: str, run_id: str) -> str:
    """The address of a run's page in a browser; '' where no server shows it."""
    return f"{redact(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}" if uri.startswith("http") else ""


def find_runs(client: MlflowClient, experiment_id: str, key: str, *, deleted: bool = False) -> list[Run]:
    """The runs with the key, or the `deleted` ones, the oldest first."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return list(client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", view, order_by=order))


def _restored(client: MlflowClient, experiment_id: str, key: str) -> list[Run]:
    """The run that a person has deleted meanwhile: what it had, and the runs below it, are not to be orphans."""
    found = find_runs(client, experiment_id, key, deleted=True)[:1]
    for run in found:
        client.restore_run(run.info.run_id)
    return found


def ensure_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Id of the experiment, made or restored if need be."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts_of(uri, name)))
        except MlflowException:  # another process was quicker
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def artifacts_of(uri: str, name: str = "") -> str | None:
    """Artifacts of the embedded store lie beside it; a server decides itself."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name).as_uri()


@contextlib.contextmanager
def _first_use(uri: str) -> Iterator[bool]:
    """Processes that open a fresh SQLite store at once break each other's schema; one at a time. Yields whether
    the store is such a one."""
    if not uri.startswith("sqlite:///"):
        yield False
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold(path.with_suffix(".lock"), waiting=lambda error: None):
        yield True


def answer_of(uri: str, error: BaseException) -> str:
    """That MLflow at `uri` refuses, or does not answer, and in which words."""
    what = "does not answer" if is_transient(error) else "refuses"
    return f"MLflow at {redact(uri)} {what} ({first_line(error)})"


def first_line(error: BaseException) -> str:
    """What an error of MLflow says, on one line, without passwords and without what its HTTP client says around it."""
    said = redact((str(error).strip().splitlines() or [type(error).__name__])[0])
    found = next(filter(None, (pattern.search(said) for pattern in _AROUND)), None)
    return (" ".join(found.groups()) if found else said)[:300]

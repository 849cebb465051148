"""A Kubeflow Pipelines server: the compiled pipeline goes there, and its steps are watched from here.

The token comes from the environment (KFP_EXISTING_TOKEN) or from the pod's projected service account, never from the
command line, where every process of the machine can read it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from drift.config.chain import Config
from drift.config.plan import MODULES
from drift.ground.errors import ConfigError, PipelineError, ServiceError
from drift.ground.findings import Noted
from pipelines.cluster.compile import compile_pipeline
from pipelines.local.runner import StepEvent
from pipelines.placement import NOTHING, Resources

TOKEN = "KFP_EXISTING_TOKEN"
HOST = "KF_PIPELINES_ENDPOINT"

PROBE_SECONDS = 10.0

RELEASES = SpecifierSet(">=2.16")
"""Kubeflow Pipelines that know a step's security context: 2.15's compiler refuses a field that it does not know
(backend/src/v2/compiler/argocompiler/container.go:309), and older ones collect no artifacts from a loop."""

STATES = {"RUNNING": "started", "SUCCEEDED": "finished", "SKIPPED": "cached", "FAILED": "failed"}
"""Kubeflow's states of a task as events; a step that came from the cache is SKIPPED there."""

ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})


@dataclass(frozen=True)
class Target:
    """Where a pipeline is to run. Raises ConfigError without a host."""

    host: str
    namespace: str | None = None
    experiment: str | None = None
    """None: the configuration's."""
    service_account: str | None = None
    ca_cert: Path | None = None
    resources: Resources = NOTHING
    """What the steps' pods get."""
    pipeline_root: str | None = None
    """Where artifacts go, such as `s3://bucket/drift`; None: the server's default."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError(f"--host: no Kubeflow Pipelines server given; name its URL, or export {HOST}")


@dataclass(frozen=True)
class Submitted:
    """A run on the cluster. `state` is Kubeflow's: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED."""

    run_id: str
    url: str
    state: str


def submit(
    config: Config,
    target: Target,
    *,
    run_name: str | None = None,
    wait: bool = True,
    caching: bool = True,
    on_event: Callable[[StepEvent], None] | None = None,
    poll_seconds: float = 5.0,
) -> Submitted:
    """Compile, check, submit; with `wait`, follow the steps to the run's end.

    Raises ServiceError if the server does not answer or refuses, PipelineError if the run ends otherwise than well.
    """
    with connected(target) as client, compiled(config, target, caching=caching) as package:
        created = client.create_run_from_pipeline_package(
            str(package),
            run_name=run_name or f"{config.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            experiment_name=experiment_of(config, target),
            namespace=target.namespace,
            pipeline_root=target.pipeline_root,
            service_account=target.service_account,
        )
        url = f"{target.host.rstrip('/')}/#/runs/details/{created.run_id}"
        if not wait:
            return Submitted(created.run_id, url, "PENDING")
        return Submitted(created.run_id, url, _followed(client, created.run_id, url, on_event, poll_seconds))


def experiment_of(config: Config, target: Target) -> str:
    """The experiment on the cluster: the target's, or the name that the run has in MLflow."""
    return target.experiment or config.tracking.experiment or config.name


@contextlib.contextmanager
def compiled(config: Config, target: Target, *, caching: bool = True) -> Iterator[Path]:
    """The compiled and checked pipeline, as a temporary file."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{config.name}.yaml"
        compile_pipeline(config, package, target.resources, caching=caching)
        yield package


@contextlib.contextmanager
def connected(target: Target) -> Iterator[kfp.Client]:
    """A client of the target's server; whatever it raises becomes a ServiceError of one line.

    What Kubeflow's client prints goes to standard error.
    """
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), _on_one_line(target.host):
        warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
        yield _client(target)


def check_release(target: Target) -> str:
    """The server's address and release, once it has answered to our token.

    Raises ServiceError if it does not, ConfigError for a release that the pipeline does not run on, Noted if it tells
    none.
    """
    with _on_one_line(target.host):
        said = _probe(target)
    release = str(said.get("tag_name") or said.get("apiServerTagName") or "")
    try:
        if Version(release) not in RELEASES:
            raise ConfigError(f"{target.host} is Kubeflow Pipelines {release}, not {RELEASES}; upgrade it")
    except InvalidVersion:
        raise Noted(f"{target.host} does not say its release; needed is {RELEASES}") from None
    return f"{target.host} {release}"


@contextlib.contextmanager
def _on_one_line(host: str) -> Iterator[None]:
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise ServiceError(_refusal(host, error.status, error.reason)) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = type(getattr(error, "reason", None) or error).__name__
        raise ServiceError(f"{host} does not answer ({reason}); check --host and the network") from None


def _client(target: Target) -> kfp.Client:
    """Kubeflow's client, after one request of ours: its own start repeats a failing one for half a minute."""
    _probe(target)
    token, mounted = os.environ.get(TOKEN), _service_account_token()
    return kfp.Client(
        host=target.host,
        namespace=target.namespace or "kubeflow",
        existing_token=token,
        credentials=ServiceAccountTokenVolumeCredentials() if mounted and not token else None,
        ssl_ca_cert=str(target.ca_cert) if target.ca_cert else None,
    )


def _service_account_token() -> str | None:
    path = Path(os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _probe(target: Target) -> dict[str, Any]:
    """What the server says of itself; a page to log in at is no answer."""
    token = os.environ.get(TOKEN) or _service_account_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    ca_certs = str(target.ca_cert) if target.ca_cert else None
    with urllib3.PoolManager(ca_certs=ca_certs, timeout=PROBE_SECONDS, retries=False) as pool:
        answer = pool.request("GET", f"{target.host.rstrip('/')}/apis/v2beta1/healthz", headers=headers)
    if answer.status >= 400:
        raise ServiceError(_refusal(target.host, answer.status, answer.reason))
    try:
        said: dict[str, Any] = answer.json()
    except ValueError:
        raise ServiceError(f"{target.host} answers, but not as Kubeflow; check --host, or export {TOKEN}") from None
    return said


def _refusal(host: str, status: int, reason: str | None) -> str:
    remedies = {
        401: f"export a fresh token as {TOKEN}",
        403: "ask for the right on this namespace",
        404: "check --host",
    }
    return f"{host} answers {status} {reason}; {remedies.get(status, 'see the log of ml-pipeline')}"


def _followed(
    client: kfp.Client, run_id: str, url: str, on_event: Callable[[StepEvent], None] | None, poll_seconds: float
) -> str:
    """Report each change of a step until the run has ended."""
    seen: dict[str, str] = {}
    while True:
        run = client.get_run(run_id)
        for task in _tasks(run):
            if task.state in STATES and seen.get(task.task_id) != task.state:
                seen[task.task_id] = task.state
                (on_event or (lambda event: None))(_event(task))
        if run.state in ENDED:
            break
        time.sleep(poll_seconds)
    if run.state != "SUCCEEDED":
        failed = [task.display_name for task in _tasks(run) if task.state == "FAILED"]
        raise PipelineError(f"the run ended as {run.state}{': ' + ', '.join(failed) if failed else ''}; see {url}")
    return str(run.state)


def _tasks(run: Any) -> list[Any]:
    """The run's steps: the server tells of every node of Argo's graph, a step's driver and its `executor` too."""
    details = run.run_details.task_details if run.run_details else None
    return [task for task in details or () if _step(task) in MODULES]


def _step(task: Any) -> str:
    return str(task.display_name).replace("-", "_")


def _event(task: Any) -> StepEvent:
    ended = task.end_time or task.start_time
    seconds = (ended - task.start_time).total_seconds() if ended and task.start_time else 0.0
    message = task.error.message if task.error else ""
    return StepEvent(_step(task), "", STATES[task.state], seconds, message)  # type: ignore[arg-type]

"""The compiled pipeline goes to a Kubeflow Pipelines server, and its run is followed from here."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from drift.config.chain import Config
from pipelines.cluster.compile import compile_pipeline
from pipelines.cluster.follow import ClusterRun, OnEvent, OnNote, follow
from pipelines.cluster.server import Target, connected


def submit(
    config: Config,
    target: Target,
    *,
    run_name: str | None = None,
    wait: bool = True,
    caching: bool = True,
    on_event: OnEvent | None = None,
    on_note: OnNote = lambda note: None,
    poll_seconds: float = 5.0,
) -> ClusterRun:
    """Compile, check, submit; with `wait`, follow the steps to the run's end, whatever it is.

    Raises ServiceError if the server does not answer or refuses, `follow.Detached` at Ctrl-C.
    """
    name = run_name or f"{config.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    with connected(target) as client, compiled(config, target, caching=caching) as package:
        created = client.create_run_from_pipeline_package(
            str(package),
            run_name=name,
            experiment_name=experiment_of(config, target),
            namespace=target.namespace,
            pipeline_root=target.pipeline_root,
            service_account=target.service_account,
        )
    run_id = str(created.run_id)
    if not wait:
        return ClusterRun(run_id, name, target.page(run_id), "PENDING")
    on_note(f"run {run_id}: {target.page(run_id)}")
    return follow(target, run_id, on_event=on_event, on_note=on_note, poll_seconds=poll_seconds)


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

"""The MLflow runs of one pipeline run: a parent, and a child per step and arm.

On a cluster whose Kubeflow logs to MLflow itself (MLFLOW_RUN_ID is set), its run is used; nothing is made or closed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.ground.errors import ServiceError
from drift.tracking.journal import Event, step_key
from drift.tracking.store import (
    EXPERIMENT,
    URI,
    ensure_experiment,
    ensure_run,
    find_runs,
    first_line,
    open_client,
    redact,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

HEADLINES = ("gate", "report")
"""Steps whose numbers sum up the whole run."""
DIGEST_CHARACTERS = 36
"""MLflow's limit for the digest of a dataset."""

_FORBIDDEN_IN_NAMES = re.compile(r"[^\w\-. :/]")


@dataclass
class Tracker:
    """The runs of one pipeline run. `parent` is its MLflow run; `attached`: every step logs into it."""

    client: MlflowClient
    uri: str
    experiment_id: str
    run_id: str
    parent: str
    attached: bool = False
    _children: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, uri: str, *, experiment: str, run_id: str, name: str) -> Tracker:
        """Find or make the experiment and the parent run of pipeline run `run_id`. Raises ServiceError."""
        client = open_client(uri)
        try:
            experiment_id = ensure_experiment(client, uri, experiment)
            tags = {"kfp.pipeline_run_id": run_id, "drift.step": "pipeline"}
            parent = ensure_run(client, experiment_id, run_id, name, tags)
        except Exception as error:
            raise ServiceError(f"{URI}: MLflow at {redact(uri)} refuses ({first_line(error)})") from error
        return cls(client, uri, experiment_id, run_id, parent)

    def begin(self, params: Mapping[str, str], config: Path) -> None:
        """The pipeline run goes on: RUNNING, also after a failed or killed attempt."""
        self._log_params(self.parent, params)
        self.client.log_artifact(self.parent, str(config))
        self.client.update_run(self.parent, status="RUNNING")

    def apply(self, event: Event) -> None:
        """Log one event of a step's journal. Applying it again changes nothing."""
        kind = event["event"]
        if kind == "pipeline":
            return
        run = self._child(event["step"], event["arm"])
        if kind == "started":
            self._start(run, event)
        elif kind == "metrics":
            self._measure(run, event)
        elif kind == "files":
            for path in filter(os.path.exists, event["paths"]):
                self.client.log_artifact(run, path)
        elif kind == "cached":
            self._link(run, event)
        elif kind == "ended":
            self._end(run, event["status"], event["error"])

    def apply_or_warn(self, event: Event) -> None:
        """`apply`, but tracking that breaks in the middle of a step does not stop the step."""
        try:
            self.apply(event)
        except Exception as error:
            log.warning("MLflow does not take '%s' of %s: %s", event["event"], event["key"], first_line(error))

    def finalize(self, status: str) -> None:
        """`status` for the parent, and KILLED for children that are still RUNNING."""
        if self.attached:
            return
        for child in self._running_children():
            self.client.set_terminated(child, "KILLED")
        self.client.set_terminated(self.parent, status)

    def finalize_or_warn(self, status: str) -> None:
        """`finalize`, for the end of a run whose MLflow may be gone: the results are there all the same."""
        try:
            self.finalize(status)
        except Exception as error:
            log.warning("MLflow at %s could not be told that the run is over: %s", redact(self.uri), first_line(error))

    def _child(self, step: str, arm: str) -> str:
        if self.attached:
            return self.parent
        key = step_key(self.run_id, step, arm)
        if key not in self._children:
            tags = {"drift.step": step, "mlflow.parentRunId": self.parent, "kfp.pipeline_run_id": self.run_id}
            name = f"{step} {arm}".strip()
            arm_tag = {"drift.arm": arm} if arm else {}
            self._children[key] = ensure_run(self.client, self.experiment_id, key, name, tags | arm_tag)
        return self._children[key]

    def _start(self, run: str, event: Event) -> None:
        tags = self.client.get_run(run).data.tags
        if tags.get("drift.started") != str(event["time"]):
            attempt = int(tags.get("drift.attempt", 0)) + 1
            self._set_tags(run, {"drift.attempt": str(attempt), "drift.started": str(event["time"])})
        self._log_params(run, event["params"])
        self._log_inputs(run, event["inputs"])
        if not self.attached:
            self.client.update_run(run, status="RUNNING")

    def _link(self, run: str, event: Event) -> None:
        """A step served from the cache: a finished run with a link to the run that did the work."""
        upstream = event["upstream"]
        did = find_runs(self.client, self.experiment_id, upstream)
        where = did[0].info.run_id if did else upstream
        self._set_tags(run, {"drift.cached": "true", f"drift.upstream.{event['step']}": where})
        self._measure(run, event)
        self._end(run, "FINISHED", None)

    def _measure(self, run: str, event: Event) -> None:
        """The step's metrics; the headlines also on the parent, since MLflow's table of runs shows parents only."""
        self._log_metrics(run, event["metrics"])
        if event["step"] in HEADLINES and not self.attached:
            self._log_metrics(self.parent, event["metrics"])

    def _end(self, run: str, status: str, error: str | None) -> None:
        if error:
            self._set_tags(run, {"drift.error": error})
        elif "drift.error" in self.client.get_run(run).data.tags:
            self.client.delete_tag(run, "drift.error")
        if not self.attached:
            self.client.set_terminated(run, status)

    def _log_metrics(self, run: str, points: Sequence[Sequence[Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_FORBIDDEN_IN_NAMES.sub("_", name), value, stamp, step) for name, value, stamp, step in points
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run, metrics=metrics[start : start + 1000])

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        """Parameters cannot change in MLflow: of a retry with other values, the first stay and a tag says so."""
        from mlflow.entities import Param

        wanted = {_FORBIDDEN_IN_NAMES.sub("_", name): redact(value) for name, value in params.items()}
        known = self.client.get_run(run).data.params
        changed = sorted(name for name in wanted if name in known and known[name] != wanted[name])
        if changed:
            self._set_tags(run, {"drift.params_changed": ", ".join(changed)})
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(run, params=new[start : start + 100])

    def _log_inputs(self, run: str, inputs: Sequence[Mapping[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        datasets = [
            DatasetInput(Dataset(entry["name"], entry["digest"][:DIGEST_CHARACTERS], "local", redact(entry["uri"])))
            for entry in inputs
        ]
        if datasets:
            self.client.log_inputs(run, datasets=datasets)

    def _set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(name, redact(value)) for name, value in tags.items()])

    def _running_children(self) -> Iterator[str]:
        mine = f"tags.`mlflow.parentRunId` = '{self.parent}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self.experiment_id], mine):
            yield run.info.run_id


def tracker_from_environment() -> Tracker | None:
    """A step's tracker on a cluster: attached to Kubeflow's run, or to the run the keys say; None without MLflow."""
    uri = os.environ.get(URI)
    if not uri:
        log.warning("no MLflow: %s is not set", URI)
        return None
    if attached := os.environ.get("MLFLOW_RUN_ID"):
        client = open_client(uri)
        experiment = client.get_run(attached).info.experiment_id
        return Tracker(client, uri, experiment, os.environ.get("DRIFT_RUN_ID", attached), attached, attached=True)
    run_id = os.environ.get("DRIFT_RUN_ID", "local")
    return Tracker.open(uri, experiment=os.environ.get(EXPERIMENT, "drift"), run_id=run_id, name=run_id)

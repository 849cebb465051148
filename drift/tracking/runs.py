"""The MLflow runs of one pipeline run: a parent, and a child per step and arm.

Where Kubeflow itself logs to MLflow, the parent, or even the step's run, is Kubeflow's (`plugin`).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.ground.errors import ServiceError
from drift.tracking import outputs, page, tables
from drift.tracking.carried import carried
from drift.tracking.journal import Event, step_key
from drift.tracking.store import (
    KEY,
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
    from mlflow.entities import Run

log = logging.getLogger(__name__)

HEADLINES = ("gate", "report")
"""Steps whose numbers sum up the whole run."""
TRAINING_SET = "training_set"
"""The dataset that the whole run is known by."""
TAG_CHARACTERS = 5000
"""MLflow's limit for the value of a tag, in releases before 2.15; 8000 since."""
REOPENED = "drift.reopened"
"""When a parent that was closed was opened again, in seconds since 1970."""
CAUSE = "drift.error"
"""Why a step failed: the first cause since the run was opened; a further one has its number behind it."""

_FORBIDDEN_IN_NAMES = re.compile(r"[^\w\-. :/]")


@dataclass
class Tracker:
    """The runs of one pipeline run. `parent` sums it up."""

    client: MlflowClient
    uri: str
    experiment_id: str
    run_id: str
    parent: str
    task: str | None = None
    """Kubeflow's own run of the task at work, if it gave one: the step logs into it, and its state is Kubeflow's."""
    theirs: bool = False
    """Kubeflow made the parent, and closes it."""
    made: bool = False
    """Whether this tracker made the parent, and did not find it."""
    _children: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls, uri: str, *, experiment: str, run_id: str, name: str, tags: Mapping[str, str] | None = None
    ) -> Tracker:
        """Find or make the experiment and the parent run of pipeline run `run_id`, made with `tags`.

        Raises ServiceError.
        """
        client = open_client(uri)
        try:
            experiment_id = ensure_experiment(client, uri, experiment)
            known = find_runs(client, experiment_id, run_id)
            parent = ensure_run(client, experiment_id, run_id, name, parent_tags(run_id) | dict(tags or {}))
        except Exception as error:
            raise ServiceError(f"{URI}: MLflow at {redact(uri)} refuses ({first_line(error)})") from error
        return cls(client, uri, experiment_id, run_id, parent, made=not known)

    @property
    def attached(self) -> bool:
        """Whether the step logs into a run of Kubeflow's."""
        return self.task is not None

    def begin(self, params: Mapping[str, str], config: Path) -> None:
        """The pipeline run goes on: RUNNING, also after a failed or killed attempt."""
        self._log_params(self.parent, params)
        self.client.log_artifact(self.parent, str(config))
        self.reopen()

    def reopen(self) -> bool:
        """RUNNING again, if it was closed; whether it was."""
        closed = self.client.get_run(self.parent).info.status != "RUNNING"
        if closed:
            self.client.update_run(self.parent, status="RUNNING")
            self._set_tags(self.parent, {REOPENED: str(time.time())})
        return closed

    def was_reopened(self) -> bool:
        """Whether it was closed before."""
        return REOPENED in self.client.get_run(self.parent).data.tags

    def apply(self, event: Event) -> None:
        """Log one event of a step's journal. Applying it again changes nothing."""
        kind = event["event"]
        if kind == "pipeline":
            return
        if kind == "run":
            self._introduce(event)
            return
        run = self.child(event["step"], event["arm"])
        if kind == "started":
            self._start(run, event)
        elif kind == "cached":
            self._link(run, event)
        elif kind == "repeated":
            self._set_tags(run, {"drift.repeats": str(event["count"]), "drift.repeated": event["error"]})
        elif kind == "ended":
            self._end(run, event)
        else:
            self._keep(run, event)

    def finalize(self, status: str) -> None:
        """`status` for the parent, and KILLED for children that are still RUNNING; what is Kubeflow's stays."""
        if self.attached:
            return
        for child in self.children():
            if child.info.status == "RUNNING":
                self.client.set_terminated(child.info.run_id, "KILLED")
        if not self.theirs:
            self.client.set_terminated(self.parent, status)

    def children(self) -> list[Run]:
        """The runs of this run's steps."""
        return children_of(self.client, self.experiment_id, self.parent)

    def finalize_or_warn(self, status: str) -> None:
        """`finalize`, for the end of a run whose MLflow may be gone: the results are there all the same."""
        try:
            self.finalize(status)
        except Exception as error:
            log.warning("MLflow at %s could not be told that the run is over: %s", redact(self.uri), first_line(error))

    def child(self, step: str, arm: str) -> str:
        """Id of the run of a step, made if need be."""
        if self.task is not None:
            return self.task
        key = step_key(self.run_id, step, arm)
        if key not in self._children:
            tags = self._tags_of(step, arm) | {"mlflow.parentRunId": self.parent}
            name = _name({"step": step, "arm": arm})
            self._children[key] = ensure_run(self.client, self.experiment_id, key, name, tags)
        return self._children[key]

    def _tags_of(self, step: str, arm: str) -> dict[str, str]:
        return {"drift.step": step, "kfp.pipeline_run_id": self.run_id, **({"drift.arm": arm} if arm else {})}

    def _keep(self, run: str, event: Event) -> None:
        """What a step has to show for itself, when it works or from the run it worked in."""
        kind = event["event"]
        if kind == "metrics":
            self._measure(run, event)
        elif kind == "files":
            self._log_files(run, event)
        elif kind == "outputs":
            outputs.publish(self.client, run, event)
        elif kind == "tags":
            self._set_tags(self.parent, event["tags"])
            page.tell(self.client, self.parent, {})
        elif kind == "page":
            page.tell(self.client, self.parent, event["parts"])

    def _introduce(self, event: Event) -> None:
        """What is known of the whole run: who started what, where, with which code and packages; its own files."""
        self._log_params(self.parent, event.get("params", {}))
        self._set_tags(self.parent, event.get("tags", {}))
        for name, text in event.get("texts", {}).items():
            self.client.log_text(self.parent, text, name)
        for path in filter(os.path.exists, event.get("paths", ())):
            self.client.log_artifact(self.parent, path, event.get("at"))

    def _log_files(self, run: str, event: Event) -> None:
        """A step's small files; those about the whole run are on its page too."""
        at = event.get("at")
        runs = {run, self.parent} if event["step"] in page.STEPS and not at else {run}
        for path in filter(os.path.exists, event["paths"]):
            for one in runs:
                self.client.log_artifact(one, path, at)

    def _start(self, run: str, event: Event) -> None:
        """A new attempt; an old one's line, told again or late, changes nothing."""
        tags = self.client.get_run(run).data.tags
        last = started(tags)
        if event["time"] > last:
            self._forget_causes(run, tags, last)
            attempt = int(tags.get("drift.attempt", 0)) + 1
            self._set_tags(run, {"drift.attempt": str(attempt), "drift.started": str(event["time"])})
        if pod := event.get("pod"):
            self._set_tags(run, {"drift.pod": pod})
        if self.attached:
            self._set_tags(run, self._tags_of(event["step"], event["arm"]) | {KEY: event["key"]})
        self._describe(run, event)
        if not self.attached and event["time"] >= last:
            self.client.update_run(run, status="RUNNING")

    def _describe(self, run: str, event: Event) -> None:
        """What a step was given, and where it ran."""
        self._log_params(run, event["params"])
        self._log_inputs(run, event["inputs"])
        if event["step"] == "arm" and run != self.parent:
            self._log_inputs(self.parent, [entry for entry in event["inputs"] if entry["name"] == TRAINING_SET])
        origin = event.get("origin", {})
        self._set_tags(run, {name: text for name, text in origin.items() if not self.attached or _ours(name)})
        if packages := event.get("packages"):
            self.client.log_text(run, packages, "packages.txt")
        if event.get("pod") and not self.theirs:
            self._log_params(self.parent, page.configuration(event["step"], event["arm"], event["params"]))

    def _forget_causes(self, run: str, tags: Mapping[str, str], last: float) -> None:
        """A run that was opened again starts afresh: causes of attempts before that are past."""
        if causes(tags) and last < float(self.client.get_run(self.parent).data.tags.get(REOPENED, 0.0)):
            self._delete_tags(run, causes(tags))

    def _link(self, run: str, event: Event) -> None:
        """A step served from the cache: a finished run with a link to the run that did the work; where MLflow does not
        have that here, or it is about the whole run, with all that it had to show."""
        upstream = event["upstream"]
        did = find_runs(self.client, self.experiment_id, upstream)
        where = did[0].info.run_id if did else upstream
        self._set_tags(run, {"drift.cached": "true", f"drift.upstream.{event['step']}": where})
        brought = not did or event["step"] in page.STEPS
        lines = list(carried(event.get("journal", ""), upstream, event)) if brought else []
        for line in lines:
            if line["event"] == "started":
                self._describe(run, line)
            else:
                self._keep(run, line)
        if not any(line["event"] == "metrics" for line in lines):
            self._measure(run, event)
        self._end(run, event | {"status": "FINISHED", "error": None})

    def _measure(self, run: str, event: Event) -> None:
        """The step's metrics; the headlines also on the parent, since MLflow's table of runs shows parents only."""
        self._log_metrics(run, event["metrics"])
        if event["step"] in HEADLINES and run != self.parent:
            self._log_metrics(self.parent, event["metrics"])
        if dropped := event.get("not_finite"):
            self._set_tags(run, {"drift.not_finite": ", ".join(dropped)})

    def _end(self, run: str, event: Event) -> None:
        """An attempt is over. Of several at once one that finishes is enough, and of those that do not only the newest
        says how the step stands. To be stopped from outside is no cause."""
        known, status = self.client.get_run(run), event["status"]
        newest = started(known.data.tags)
        if status == "FINISHED":
            self._delete_tags(run, causes(known.data.tags))
            if page.is_failure_of(_name(event), self.client.get_run(self.parent).data.tags):
                page.tell(self.client, self.parent, {"failure": ""})
        elif known.info.status == "FINISHED":
            return
        elif status == "FAILED":
            self._set_tags(run, cause(known.data.tags, event["error"]))
            page.tell(self.client, self.parent, page.failure(_name(event), redact(event["error"])))
        if not self.attached and (status == "FINISHED" or event.get("started", newest) >= newest):
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

        datasets = [DatasetInput(Dataset(**tables.dataset({**entry, "uri": redact(entry["uri"])}))) for entry in inputs]
        if datasets:
            self.client.log_inputs(run, datasets=datasets)

    def _set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(name, _fit(value)) for name, value in tags.items()])

    def _delete_tags(self, run: str, names: Iterable[str]) -> None:
        for name in names:
            self.client.delete_tag(run, name)


def parent_tags(run_id: str) -> dict[str, str]:
    """What a pipeline run's parent is known by, beside its key."""
    return {"kfp.pipeline_run_id": run_id, "drift.step": "pipeline"}


def children_of(client: MlflowClient, experiment_id: str, parent: str) -> list[Run]:
    """The runs of the steps of a parent; Kubeflow's own runs of tasks under it are none."""
    found = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return [run for run in found if "drift.step" in run.data.tags]


def causes(tags: Mapping[str, str]) -> dict[str, str]:
    """The causes of failure among a step's tags, by the tag's name."""
    return {name: text for name, text in tags.items() if name == CAUSE or name.startswith(f"{CAUSE}.")}


def cause(tags: Mapping[str, str], error: str) -> dict[str, str]:
    """The tag of a further cause; none if it is known."""
    known = causes(tags)
    return {} if _fit(error) in known.values() else {f"{CAUSE}.{len(known) + 1}" if known else CAUSE: error}


def started(tags: Mapping[str, str]) -> float:
    """When the newest attempt of a step started."""
    return float(tags.get("drift.started", 0.0))


def _name(event: Mapping[str, Any]) -> str:
    return f"{event['step']} {event['arm']}".strip()


def _ours(tag: str) -> bool:
    return tag.startswith("drift.")


def _fit(value: str) -> str:
    return redact(value)[:TAG_CHARACTERS]

"""The MLflow runs of one pipeline run: a parent, and a child per step and arm.

Where Kubeflow itself logs to MLflow, the parent, or even the step's run, is Kubeflow's (`plugin`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.ground.errors import ServiceError
from drift.tracking.journal import Event, step_key
from drift.tracking.limits import NUMBERS, for_file, limit
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
    from mlflow.entities import Run, RunInfo

log = logging.getLogger(__name__)

HEADLINES = ("gate", "report")
"""Steps whose numbers sum up the whole run."""
DIGEST_CHARACTERS = 36
"""MLflow's limit for the digest of a dataset."""

TAG_CHARACTERS = 5000
"""MLflow's limit for the value of a tag, in releases before 2.15; 8000 since."""
PARAM_CHARACTERS = 6000
"""MLflow's limit for the value of a parameter."""
PIPELINE = "pipeline"
"""The step of events that are of the whole run."""
TRACKED = "drift.tracking"
"""On the parent: `complete`, or what MLflow lacks of what the run told."""
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

    def answers(self) -> bool:
        """Whether MLflow is there and lets this process in."""
        try:
            with limit(NUMBERS):
                self.client.get_run(self.parent)
        except Exception:  # of what kind does not matter
            return False
        return True

    def note_missing(self, missing: object) -> None:
        """Say on the parent whether MLflow has everything that the run told; a warning if not even that can be said."""
        try:
            with limit(NUMBERS):
                self._set_tags(self.parent, {TRACKED: str(missing)})
        except Exception as error:
            log.warning("MLflow at %s: %s", redact(self.uri), first_line(error))

    def reopen(self, since: float | None = None) -> bool:
        """RUNNING again, if it was closed, before `since` if that is given; whether it was."""
        info = self.client.get_run(self.parent).info
        closed = info.status != "RUNNING" and not _is_past(info, since)
        if closed:
            self.client.update_run(self.parent, status="RUNNING")
            self._set_tags(self.parent, {REOPENED: str(since or time.time())})
        return closed

    def was_reopened(self) -> bool:
        """Whether it was closed before."""
        return REOPENED in self.client.get_run(self.parent).data.tags

    def apply(self, event: Event) -> None:
        """Log one event of a journal. Applied again, it changes nothing; applied late, nothing of what came since."""
        if event["event"] == "pipeline":
            return
        if event["event"] == "files":
            self._keep_files(self._run_of(event), event["paths"])
            return
        with limit(NUMBERS):
            self._apply(event)

    def _apply(self, event: Event) -> None:
        kind, run = event["event"], self._run_of(event)
        if kind == "begun":
            self.reopen(event["time"])
            self._log_params(run, event["params"])
        elif kind == "closed":
            self.finalize(event["status"], event["time"])
        elif kind == "started":
            self._start(run, event)
        elif kind == "metrics":
            self._measure(run, event)
        elif kind == "cached":
            self._link(run, event)
        elif kind == "tags":
            self._set_tags(self.parent, event["tags"])
        elif kind == "repeated":
            self._set_tags(run, {"drift.repeats": str(event["count"]), "drift.repeated": event["error"]})
        elif kind == "ended":
            self._end(run, event)

    def finalize(self, status: str, at: float | None = None) -> None:
        """`status` for the parent, and KILLED for children that are still RUNNING; what is Kubeflow's stays.

        ``at``: when that was, in seconds since 1970; nothing if the run was opened again or closed since.
        """
        run = self.client.get_run(self.parent)
        if self.attached or (at and (float(run.data.tags.get(REOPENED, 0.0)) > at or _is_past(run.info, at))):
            return
        for child in self.children():
            if child.info.status == "RUNNING":
                self.client.set_terminated(child.info.run_id, "KILLED")
        if not self.theirs:
            self.client.set_terminated(self.parent, status, int(at * 1000) if at else None)

    def children(self) -> list[Run]:
        """The runs of this run's steps."""
        return children_of(self.client, self.experiment_id, self.parent)

    def _run_of(self, event: Event) -> str:
        """Of a step, as of when it began, or of the whole run."""
        began = event.get("started") or event["time"]
        return self.parent if event["step"] == PIPELINE else self.child(event["step"], event["arm"], began)

    def child(self, step: str, arm: str, began: float | None = None) -> str:
        """Id of the run of a step, made if need be, as of `began`."""
        if self.task is not None:
            return self.task
        key = step_key(self.run_id, step, arm)
        if key not in self._children:
            tags = self._tags_of(step, arm) | {"mlflow.parentRunId": self.parent}
            name = f"{step} {arm}".strip()
            self._children[key] = ensure_run(self.client, self.experiment_id, key, name, tags, began)
        return self._children[key]

    def _tags_of(self, step: str, arm: str) -> dict[str, str]:
        return {"drift.step": step, "kfp.pipeline_run_id": self.run_id, **({"drift.arm": arm} if arm else {})}

    def _start(self, run: str, event: Event) -> None:
        """A new attempt; an old one's line, told again or late, changes nothing."""
        known = self.client.get_run(run)
        tags = known.data.tags
        last = started(tags)
        if event["time"] > last:
            self._forget_causes(run, tags, last)
            attempt = int(tags.get("drift.attempt", 0)) + 1
            self._set_tags(run, {"drift.attempt": str(attempt), "drift.started": str(event["time"])})
        if pod := event.get("pod"):
            self._set_tags(run, {"drift.pod": pod})
        if self.attached:
            self._set_tags(run, self._tags_of(event["step"], event["arm"]) | {KEY: event["key"]})
        self._log_params(run, event["params"])
        self._log_inputs(run, event["inputs"])
        if not self.attached and event["time"] >= last and not _is_past(known.info, event["time"]):
            self.client.update_run(run, status="RUNNING")

    def _forget_causes(self, run: str, tags: Mapping[str, str], last: float) -> None:
        """A run that was opened again starts afresh: causes of attempts before that are past."""
        if causes(tags) and last < float(self.client.get_run(self.parent).data.tags.get(REOPENED, 0.0)):
            self._delete_tags(run, causes(tags))

    def _link(self, run: str, event: Event) -> None:
        """A step served from the cache: a finished run with a link to the run that did the work."""
        upstream = event["upstream"]
        did = find_runs(self.client, self.experiment_id, upstream)
        where = did[0].info.run_id if did else upstream
        self._set_tags(run, {"drift.cached": "true", f"drift.upstream.{event['step']}": where})
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
        elif known.info.status == "FINISHED":
            return
        elif status == "FAILED":
            self._set_tags(run, cause(known.data.tags, event["error"]))
        if not self.attached and (status == "FINISHED" or event.get("started", newest) >= newest):
            self.client.set_terminated(run, status, max(int(event["time"] * 1000), known.info.start_time))

    def _keep_files(self, run: str, paths: Iterable[str]) -> None:
        """Each file, whatever becomes of the others. One that is gone will never come, and is said."""
        refused: list[Exception] = []
        for path in paths:
            if not Path(path).exists():
                log.warning("%s: is gone before MLflow had it", path)
                continue
            try:
                with limit(for_file(Path(path).stat().st_size)):
                    self.client.log_artifact(run, path)
            except Exception as error:  # MLflow and the object store raise many kinds
                refused.append(error)
        if refused:
            raise refused[0]

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
        cut = sorted(name for name, value in wanted.items() if len(value) > PARAM_CHARACTERS)
        if cut:
            self._set_tags(run, {"drift.params_cut": ", ".join(cut)})
        wanted = {name: value[:PARAM_CHARACTERS] for name, value in wanted.items()}
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


def _is_past(info: RunInfo, at: float | None) -> bool:
    """Whether a run has ended since."""
    return at is not None and info.end_time is not None and info.end_time >= int(at * 1000)


def _fit(value: str) -> str:
    return redact(value)[:TAG_CHARACTERS]

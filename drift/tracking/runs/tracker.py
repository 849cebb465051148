"""The MLflow runs of one pipeline run: a parent, and a child per step and arm.

Where Kubeflow itself logs to MLflow, the parent, or even the step's run, is Kubeflow's (`plugin`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drift.ground.errors import ServiceError
from drift.tracking.limits import NUMBERS, limit
from drift.tracking.runs import fields, outputs, page
from drift.tracking.runs.carried import carried
from drift.tracking.runs.points import Points
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
from drift.tracking.telling.journal import Event, step_key

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, RunInfo

log = logging.getLogger(__name__)

HEADLINES = ("gate", "report")
"""Steps whose numbers sum up the whole run."""
TRAINING_SET = "training_set"
"""The dataset that the whole run is known by."""
PIPELINE = "pipeline"
"""The step of events that are of the whole run."""
TRACKED = "drift.tracking"
"""On the parent: `complete`, or what MLflow lacks of what the run told."""
REOPENED = "drift.reopened"
"""When a parent that was closed was opened again, in seconds since 1970."""
CAUSE = "drift.error"
"""Why a step failed: the first cause since the run was opened; a further one has its number behind it."""


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

    def __post_init__(self) -> None:
        self._points = Points(self.client)

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
                fields.set_tags(self.client, self.parent, {TRACKED: str(missing)})
        except Exception as error:
            log.warning("MLflow at %s: %s", redact(self.uri), first_line(error))

    def reopen(self, since: float | None = None) -> bool:
        """RUNNING again, if it was closed, before `since` if that is given; whether it was."""
        info = self.client.get_run(self.parent).info
        closed = info.status != "RUNNING" and not _is_past(info, since)
        if closed:
            self.client.update_run(self.parent, status="RUNNING")
            fields.set_tags(self.client, self.parent, {REOPENED: str(since or time.time())})
        return closed

    def was_reopened(self) -> bool:
        """Whether it was closed before."""
        return REOPENED in self.client.get_run(self.parent).data.tags

    def apply(self, event: Event) -> None:
        """Log one event of a journal. Applied again, it changes nothing; applied late, nothing of what came since."""
        if event["event"] == "pipeline":
            return
        with limit(NUMBERS):
            self._apply(event)

    def _apply(self, event: Event) -> None:
        kind, run = event["event"], self._run_of(event)
        if kind == "begun":
            self.reopen(event["time"])
            self.introduce(event.get("params", {}), event.get("tags", {}), event.get("texts", {}))
        elif kind == "closed":
            self.finalize(event["status"], event["time"])
        elif kind == "started":
            self._start(run, event)
        elif kind == "cached":
            self._link(run, event)
        elif kind == "repeated":
            fields.set_tags(self.client, run, {"drift.repeats": str(event["count"]), "drift.repeated": event["error"]})
        elif kind == "ended":
            self._end(run, event)
        else:
            self._keep(run, event)

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
            name = _name({"step": step, "arm": arm})
            self._children[key] = ensure_run(self.client, self.experiment_id, key, name, tags, began)
        return self._children[key]

    def _tags_of(self, step: str, arm: str) -> dict[str, str]:
        return {"drift.step": step, "kfp.pipeline_run_id": self.run_id, **({"drift.arm": arm} if arm else {})}

    def _keep(self, run: str, event: Event) -> None:
        """What a step has to show for itself, when it works or from the run it worked in."""
        kind = event["event"]
        if kind == "metrics":
            self._measure(run, event)
        elif kind == "files":
            self._keep_files(run, event)
        elif kind == "outputs":
            outputs.publish(self.client, run, event)
        elif kind == "tags":
            fields.set_tags(self.client, self.parent, event["tags"])
            page.tell(self.client, self.parent, {})
        elif kind == "page":
            page.tell(self.client, self.parent, event["parts"])

    def introduce(
        self, params: Mapping[str, str], tags: Mapping[str, str], texts: Mapping[str, str] | None = None
    ) -> None:
        """What is known of the whole run: who started what, where, with which code and packages."""
        fields.log_params(self.client, self.parent, params)
        fields.set_tags(self.client, self.parent, tags)
        page.tell(self.client, self.parent, {})
        for name, text in (texts or {}).items():
            self.client.log_text(self.parent, text, name)

    def _keep_files(self, run: str, event: Event) -> None:
        """A step's small files; those about the whole run are on its page too."""
        at = event.get("at")
        runs = {run, self.parent} if event["step"] in page.STEPS and not at else {run}
        outputs.log_files(self.client, runs, event["paths"], at)

    def _start(self, run: str, event: Event) -> None:
        """A new attempt; an old one's line, told again or late, changes nothing."""
        known = self.client.get_run(run)
        tags = known.data.tags
        last = started(tags)
        if event["time"] > last:
            self._forget_causes(run, tags, last)
            attempt = int(tags.get("drift.attempt", 0)) + 1
            fields.set_tags(self.client, run, {"drift.attempt": str(attempt), "drift.started": str(event["time"])})
        if pod := event.get("pod"):
            fields.set_tags(self.client, run, {"drift.pod": pod})
        if self.attached:
            fields.set_tags(self.client, run, self._tags_of(event["step"], event["arm"]) | {KEY: event["key"]})
        self._describe(run, event)
        if not self.attached and event["time"] >= last and not _is_past(known.info, event["time"]):
            self.client.update_run(run, status="RUNNING")

    def _describe(self, run: str, event: Event) -> None:
        """What a step was given, and where it ran."""
        client, inputs = self.client, event["inputs"]
        fields.log_params(client, run, event["params"])
        fields.log_inputs(client, run, inputs)
        self._describe_whole(run, event)
        origin = {name: text for name, text in event.get("origin", {}).items() if not self.attached or _ours(name)}
        fields.set_tags(client, run, origin)
        if packages := event.get("packages"):
            client.log_text(run, packages, "packages.txt")
        for name, text in event.get("texts", {}).items():  # about the whole run, and told by one of its steps
            for one in {run, self.parent}:
                client.log_text(one, text, name)
        if event.get("pod") and not self.theirs:
            params = page.configuration(event["step"], event["arm"], event["params"])
            fields.log_params(client, self.parent, params)

    def _describe_whole(self, run: str, event: Event) -> None:
        """What the whole run was given, as one of its arms has it."""
        if event["step"] == "arm" and run != self.parent:
            known = [entry for entry in event["inputs"] if entry["name"] == TRAINING_SET]
            fields.log_inputs(self.client, self.parent, known)

    def _forget_causes(self, run: str, tags: Mapping[str, str], last: float) -> None:
        """A run that was opened again starts afresh: causes of attempts before that are past."""
        if causes(tags) and last < float(self.client.get_run(self.parent).data.tags.get(REOPENED, 0.0)):
            fields.delete_tags(self.client, run, causes(tags))

    def _link(self, run: str, event: Event) -> None:
        """A step served from the cache: a finished run with a link to the run that did the work; where MLflow does not
        have that here, or it is about the whole run, with all that it had to show."""
        upstream = event["upstream"]
        did = find_runs(self.client, self.experiment_id, upstream)
        where = did[0].info.run_id if did else upstream
        fields.set_tags(self.client, run, {"drift.cached": "true", f"drift.upstream.{event['step']}": where})
        self._end(run, event | {"status": "FINISHED", "error": None})
        brought = not did or event["step"] in page.STEPS
        lines = list(carried(event.get("journal", ""), upstream, event))
        if not brought or not any(line["event"] == "metrics" for line in lines):
            self._measure(run, event)
        for line in lines:
            if line["event"] == "started":
                (self._describe if brought else self._describe_whole)(run, line)
            elif brought:
                self._keep(run, line)

    def _measure(self, run: str, event: Event) -> None:
        """The step's metrics; the headlines also on the parent, since MLflow's table of runs shows parents only."""
        self._points.log(run, event["metrics"])
        if event["step"] in HEADLINES and run != self.parent:
            fields.log_metrics(self.client, self.parent, event["metrics"])
        if dropped := event.get("not_finite"):
            fields.set_tags(self.client, run, {"drift.not_finite": ", ".join(dropped)})

    def _end(self, run: str, event: Event) -> None:
        """An attempt is over. Of several at once one that finishes is enough, and of those that do not only the newest
        says how the step stands. To be stopped from outside is no cause."""
        known, status = self.client.get_run(run), event["status"]
        newest = started(known.data.tags)
        if status == "FINISHED":
            fields.delete_tags(self.client, run, causes(known.data.tags))
            if page.is_failure_of(_name(event), self.client.get_run(self.parent).data.tags):
                page.tell(self.client, self.parent, {"failure": ""})
        elif known.info.status == "FINISHED":
            return
        elif status == "FAILED":
            fields.set_tags(self.client, run, cause(known.data.tags, event["error"]))
            page.tell(self.client, self.parent, page.failure(_name(event), redact(event["error"])))
        if not self.attached and (status == "FINISHED" or event.get("started", newest) >= newest):
            self.client.set_terminated(run, status, max(int(event["time"] * 1000), known.info.start_time))


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
    return {} if fields.fit(error) in known.values() else {f"{CAUSE}.{len(known) + 1}" if known else CAUSE: error}


def started(tags: Mapping[str, str]) -> float:
    """When the newest attempt of a step started."""
    return float(tags.get("drift.started", 0.0))


def _is_past(info: RunInfo, at: float | None) -> bool:
    """Whether a run has ended since."""
    return at is not None and info.end_time is not None and info.end_time >= int(at * 1000)


def _name(event: Mapping[str, Any]) -> str:
    return f"{event['step']} {event['arm']}".strip()


def _ours(tag: str) -> bool:
    return tag.startswith("drift.")

"""A training on several nodes: its TrainJob created or adopted, followed by its pods, deleted however it ends.

The pod that calls `train_on_nodes` has no GPU. It writes the job, and each node runs `drift.training.nodes.node`. The
TrainJob's own status is poor: no word of a failing pod, and Complete even where nothing ran. So the pods are looked at
too, and only the first rank's result file says that a training is complete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drift.config.nodes import Nodes
from drift.ground.artifacts import read_json
from drift.ground.errors import DriftError, PipelineError
from drift.tracking.telling.journal import read
from drift.tracking.telling.live import Live
from drift.training.launch import LOST
from drift.training.nodes.kube import Api, Failure, Pod
from drift.training.nodes.node import INPUT, write_job
from drift.training.nodes.shared import JOB, RESULT, brought, shared_folder
from drift.training.nodes.trainjob import SPEC, Body, job_name, manifest

log = logging.getLogger(__name__)

POLL_SECONDS = 3.0
RESULT_WITHIN_SECONDS = 90
"""How long a network file system may take to show a file that a node wrote."""
GONE_WITHIN_SECONDS = 300
"""Pods have half a minute to end, and lost nodes longer."""
TAIL_LINES = 50


def train_on_nodes(nodes: Nodes, name: str, job: Any) -> dict[str, Any]:
    """What `fit` returned on the first rank of ``job``, trained by the TrainJob of the arm ``name``.

    ``job.folder`` is on the claim. A result that is there already, of a pod that was lost since, is taken as it is.
    Raises DataError for inputs that cannot be copied, and what `run_to_the_end` raises.
    """
    place = job.folder.parent
    if not (place / RESULT).exists():
        write_job(place / JOB, _seen_by_nodes(nodes, job))
        run = os.environ.get("DRIFT_RUN_ID", "local")
        body = manifest(nodes, job_name(run, name, place.name), place / JOB, run=run)
        run_to_the_end(body, place / RESULT)
    result: dict[str, Any] = read_json(place / RESULT)
    return result


def run_to_the_end(body: Body, result: Path) -> None:
    """Create the TrainJob, or adopt the one that an earlier pod created, and return when ``result`` is there.

    It is deleted however this ends, an exception of a signal's handler included. Raises PipelineError with the first
    failing node's cause, a TrainJob that vanished, ran out of time or is Complete without a result; ServiceError for a
    cluster that refuses or does not answer.
    """
    name = body["metadata"]["name"]
    with contextlib.closing(Api()) as api, _deleted_at_the_end(api, name):
        _create_or_adopt(api, body)
        Watch(api, name, result).to_the_end()


@contextlib.contextmanager
def _deleted_at_the_end(api: Api, name: str) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            api.delete(name)
        except DriftError as error:
            log.warning("TrainJob %s is left: %s", name, error)


def _create_or_adopt(api: Api, body: Body) -> None:
    name, ours = body["metadata"]["name"], body["metadata"]["annotations"][SPEC]
    deadline = time.monotonic() + GONE_WITHIN_SECONDS
    while not api.create(body):
        there = api.read(name)
        if there and there["metadata"].get("annotations", {}).get(SPEC) == ours and not _is_over(there):
            log.info("TrainJob %s is at work already: an earlier pod created it", name)
            api.adopt(name, body["metadata"].get("ownerReferences", []))
            return
        if time.monotonic() > deadline:
            raise PipelineError(f"TrainJob {name}: another one of that name does not go; delete it")
        api.delete(name)
        time.sleep(POLL_SECONDS)


def _is_over(job: Body) -> bool:
    """Failed, or about to be deleted."""
    return bool(_condition(job, "Failed") or job["metadata"].get("deletionTimestamp"))


def _condition(job: Body, kind: str) -> Body | None:
    """The condition, if it is True."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)


@dataclass
class Watch:
    """What was seen of a TrainJob so far."""

    api: Api
    name: str
    result: Path
    live: Live = field(default_factory=Live)
    failures: dict[str, Failure] = field(default_factory=dict)
    """The first of each attempt."""
    said: dict[str, str] = field(default_factory=dict)
    logged: str = ""
    read: int = 0
    """How far the journal of the first rank was read."""

    def to_the_end(self) -> None:
        """Return when the result is there; raise for every other end."""
        try:
            while not self._look():
                time.sleep(POLL_SECONDS)
        finally:
            self._pass_on()
            self.live.flush()

    def _look(self) -> bool:
        """Look once; whether it is complete."""
        job = self.api.read(self.name)
        if job is None:
            raise PipelineError(f"TrainJob {self.name} vanished: somebody deleted it, or the pod that owned it")
        suspended = job["spec"].get("suspend") or _condition(job, "Suspended")
        pods = [] if suspended else self.api.pods(self.name)
        self._follow(pods)
        self._pass_on()
        if failed := _condition(job, "Failed"):
            raise self._failed(failed, pods)
        if _condition(job, "Complete"):
            self._require_result()
            return True
        self._tell("job", "suspended: it waits for quota" if suspended else "admitted" if "job" in self.said else "")
        for pod in pods:
            self._tell(pod.name, pod.waiting and f"node {pod.node} waits: {pod.waiting}")
        if not pods and not suspended:
            self._tell("pods", self.api.warning(self.name))
        self._judge(pods)
        return False

    def _judge(self, pods: list[Pod]) -> None:
        """Note the first failing pod; raise where no new start can help, or none would come."""
        failures = sorted((pod.failure for pod in pods if pod.failure), key=lambda one: (LOST in one.cause, one.at))
        if not failures:
            return
        first = failures[0]
        if first.code == INPUT or first.in_place:
            raise self._because(first)
        if self._is_news(first):
            self.failures[first.attempt] = first
            log.warning("%s; all nodes start anew, if the runtime's maxRestarts lets them", _line(first))

    def _is_news(self, failure: Failure) -> bool:
        """The first of its attempt, or the cause of what only a node that noticed was seen of."""
        known = self.failures.get(failure.attempt)
        return known is None or (LOST in known.cause and LOST not in failure.cause)

    def _failed(self, condition: Body, pods: list[Pod]) -> PipelineError:
        if condition["reason"] == "DeadlineExceeded":
            waiting = "".join(f"; node {pod.node} waited: {pod.waiting}" for pod in pods if pod.waiting)
            none = "" if pods else f"; {self.said.get('pods') or 'no pod was started'}"
            late = f"TrainJob {self.name}: not done within timeout_seconds of the profile (DeadlineExceeded)"
            return PipelineError(f"{late}{waiting}{none}")
        for failure in (pod.failure for pod in pods if pod.failure):
            if self._is_news(failure):
                self.failures[failure.attempt] = failure
        if self.failures:
            return self._because(next(iter(self.failures.values())))
        return PipelineError(f"TrainJob {self.name}: {condition['reason']}: {condition['message']}")

    def _because(self, failure: Failure) -> PipelineError:
        """The error, after the last lines of the node that failed."""
        for line in self.api.tail(failure.pod, TAIL_LINES):
            sys.stderr.write(f"[node {failure.node}] {line}\n")
        return PipelineError(_line(failure))

    def _require_result(self) -> None:
        deadline = time.monotonic() + RESULT_WITHIN_SECONDS
        while not self.result.exists():
            if time.monotonic() > deadline:
                raise PipelineError(
                    f"TrainJob {self.name}: Complete, but its first rank left no {self.result}; is the claim the same"
                    " on every node?"
                )
            time.sleep(1)

    def _pass_on(self) -> None:
        """The curves that the first rank has written beside its job since."""
        for event, position in read(self.result.parent, self.read):
            self.live.pass_on((name, value, stamp, step) for name, value, stamp, step in event["metrics"])
            self.read = position

    def _follow(self, pods: list[Pod]) -> None:
        """Pass on what the first node has logged since."""
        for pod in (pod for pod in pods if pod.node == "0"):
            for stamp, line in self.api.log_since(pod.name, self.logged):
                sys.stderr.write(f"{line}\n")
                self.logged = stamp
        sys.stderr.flush()

    def _tell(self, what: str, message: str) -> None:
        """Say it where it is news."""
        if message and self.said.get(what) != message:
            log.warning("TrainJob %s: %s", self.name, message)
        if message:
            self.said[what] = message


def _line(failure: Failure) -> str:
    return f"node {failure.node} (pod {failure.pod}): {failure.cause}"


def _seen_by_nodes(nodes: Nodes, job: Any) -> Any:
    """``job`` with inputs that every node sees: on a claim that all mount, else copied to the shared one."""
    claim = shared_folder()
    assert claim is not None  # its folder lies there
    seen = tuple(Path(mount.path) for mount in nodes.mounts)
    zero = job.config.deepspeed
    config = job.config.model_copy(update={"deepspeed": str(brought(claim, Path(zero), seen))}) if zero else job.config
    inputs = {name: getattr(job, name) for name in ("source", "training_set", "delta", "teacher")}
    return replace(job, config=config, **{n: path and brought(claim, path, seen) for n, path in inputs.items()})

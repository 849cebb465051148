"""What of Kubernetes' API a TrainJob needs, asked patiently: a server that restarts ends no training of days."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drift.config.nodes import NODES
from drift.ground.errors import DriftError, ServiceError, cause
from drift.training.nodes.trainjob import CONTAINER, GROUP, PLURAL, RUN, VERSION, Body, label

log = logging.getLogger(__name__)

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
ANSWER_SECONDS = 30
PATIENCE_SECONDS = 900
"""How long a server may be away."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
PASSING = {0, 408, 429, 500, 502, 503, 504}
"""Statuses of a server that may answer a little later."""
ABSENT, TAKEN = 404, 409
JOBSET, INDEX, ATTEMPT = (
    "jobset.sigs.k8s.io/jobset-name",
    "batch.kubernetes.io/job-completion-index",
    "jobset.sigs.k8s.io/restart-attempt",
)
"""Labels of a node's pod: its TrainJob, the node's number, how often all were started anew."""


@dataclass(frozen=True)
class Failure:
    """How a node's container ended. `at`: when, in UTC. `in_place`: Kubernetes starts it again alone, in its pod."""

    node: str
    pod: str
    attempt: str
    cause: str
    code: int
    at: str
    in_place: bool


@dataclass(frozen=True)
class Pod:
    """A node, as it is now; `waiting` says why it does not run yet."""

    name: str
    node: str
    waiting: str
    failure: Failure | None


class Api:
    """The cluster, from inside a pod or by a kubeconfig. Raises ServiceError without either."""

    def __init__(self) -> None:
        from kubernetes import client, config

        try:
            config.load_incluster_config()
            namespace = NAMESPACE.read_text(encoding="utf-8").strip()
        except config.ConfigException:
            namespace = _by_kubeconfig()
        settings = client.Configuration.get_default_copy()
        settings.retries = False
        self._connection = connection = client.ApiClient(settings)
        self.namespace = os.environ.get("DRIFT_NAMESPACE") or namespace
        self._core, jobs = client.CoreV1Api(connection), client.CustomObjectsApi(connection)
        self._jobs, self._where = jobs, (GROUP, VERSION, self.namespace, PLURAL)

    def close(self) -> None:
        """Close what is open to the server."""
        self._connection.rest_client.pool_manager.clear()
        self._connection.close()

    def create(self, body: Body) -> bool:
        """Whether the TrainJob was created; False if one of its name is there."""
        return _patiently(self._jobs.create_namespaced_custom_object, *self._where, body, none=TAKEN) is not None

    def read(self, name: str) -> Body | None:
        """The TrainJob; None if there is none."""
        return _patiently(self._jobs.get_namespaced_custom_object, *self._where, name)

    def delete(self, name: str) -> None:
        """Delete it and its pods, if it is there."""
        delete = self._jobs.delete_namespaced_custom_object
        _patiently(delete, *self._where, name, propagation_policy="Background")

    def of_run(self, run: str) -> list[str]:
        """Names of the TrainJobs of a pipeline run."""
        listed = _patiently(
            self._jobs.list_namespaced_custom_object, *self._where, label_selector=f"{RUN}={label(run)}"
        )
        return [job["metadata"]["name"] for job in listed["items"]]

    def adopt(self, name: str, owners: list[Body]) -> None:
        """Make ``owners`` its owners: those it had may go any moment."""
        patch = {"metadata": {"ownerReferences": owners}}
        _patiently(self._jobs.patch_namespaced_custom_object, *self._where, name, patch)

    def pods(self, name: str) -> list[Pod]:
        """Its nodes, but for those about to be deleted."""
        listed = _patiently(self._core.list_namespaced_pod, self.namespace, label_selector=f"{JOBSET}={name}")
        there = [pod for pod in listed.items if not pod.metadata.deletion_timestamp]
        return sorted((self._pod(pod) for pod in there), key=lambda pod: pod.node)

    def log_since(self, pod: str, stamp: str) -> Iterator[tuple[str, str]]:
        """(time, line) of what a pod has logged after ``stamp``; none of it if it has no log now."""
        since = {"since_seconds": _age(stamp) + 2} if stamp else {}
        for line in self._log(pod, timestamps=True, **since):
            time_of, _, text = line.partition(" ")
            if _comparable(time_of) > _comparable(stamp):
                yield time_of, text

    def tail(self, pod: str, lines: int) -> list[str]:
        """The last lines of a pod's log; none if it has no log now."""
        return self._log(pod, tail_lines=lines)

    def warning(self, name: str) -> str:
        """The newest warning about what the TrainJob is made of, such as a pod that may not be created; '' if none."""
        listed = _patiently(self._core.list_namespaced_event, self.namespace, field_selector="type=Warning")
        ours = [event for event in listed.items if event.involved_object.name.startswith(name)]
        newest = max(ours, key=lambda event: str(event.last_timestamp or event.event_time or ""), default=None)
        return f"{newest.reason}: {newest.message}" if newest else ""

    def _pod(self, pod: Any) -> Pod:
        labels, status = pod.metadata.labels or {}, pod.status
        node, attempt = labels.get(INDEX, "?"), labels.get(ATTEMPT, "0")
        ended = _ended(status)
        if ended is None:
            return Pod(pod.metadata.name, node, _waiting(status), None)
        code, said, at = ended
        text = said or next(iter(reversed(self.tail(pod.metadata.name, 1))), "") or f"exit code {code}"
        text = re.sub(rf"^drift: node {node}: ", "", text.strip().splitlines()[-1])
        in_place = pod.spec.restart_policy != "Never"
        return Pod(pod.metadata.name, node, "", Failure(node, pod.metadata.name, attempt, text, code, at, in_place))

    def _log(self, pod: str, **options: Any) -> list[str]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        read = self._core.read_namespaced_pod_log
        try:
            text = read(pod, self.namespace, container=CONTAINER, _request_timeout=ANSWER_SECONDS, **options)
        except (ApiException, HTTPError):  # not started, gone, or away: the next look asks again
            return []
        return str(text or "").splitlines()


def end_left_jobs() -> None:
    """Delete the TrainJobs of this pipeline run, whose pods were killed before they could.

    For the exit handler, which has the variable DRIFT_NODES where there may be some. Never raises: a run's end is more
    than that.
    """
    if not os.environ.get(NODES):
        return
    try:
        with contextlib.closing(Api()) as api:
            for name in api.of_run(os.environ["DRIFT_RUN_ID"]):
                log.warning("TrainJob %s was left: deleted", name)
                api.delete(name)
    except DriftError as error:
        log.warning("TrainJobs of this run may be left: %s", error)


def _by_kubeconfig() -> str:
    """Load the kubeconfig; its namespace."""
    from kubernetes import config

    try:
        config.load_kube_config(os.environ.get("KUBECONFIG"))
        _, current = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
    except config.ConfigException:
        raise ServiceError("no cluster: neither a pod's service account nor a kubeconfig here") from None
    return str(current["context"].get("namespace", "default"))


def _patiently(call: Callable[..., Any], *arguments: Any, none: int = ABSENT, **options: Any) -> Any:
    """The answer; None for the status ``none``. Raises ServiceError if the server refuses, or is away for too long."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    wait, deadline = FIRST_WAIT_SECONDS, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call(*arguments, _request_timeout=ANSWER_SECONDS, **options)
        except ApiException as error:
            if error.status == none:
                return None
            trouble = f"the cluster answers {error.status}: {_message(error)}"
            if error.status not in PASSING:
                raise ServiceError(
                    f"{trouble}; see docs/nodes.md for what the steps' account must be allowed"
                ) from None
        except HTTPError as error:
            trouble = f"the cluster does not answer ({cause(error)})"
        if time.monotonic() > deadline:
            raise ServiceError(trouble)
        log.warning("%s; asking again in %.0f s", trouble, wait)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def _message(error: Any) -> str:
    """The server's own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _ended(status: Any) -> tuple[int, str, str] | None:
    """(exit code, what it said, when) of a container that failed, now or before it was started again."""
    for one in status.container_statuses or []:
        for state in (one.state, one.last_state):
            ended = state and state.terminated
            if ended and ended.exit_code != 0:
                said = ended.message or ("" if ended.reason in (None, "Error") else ended.reason)
                return ended.exit_code, said, str(ended.finished_at)
    if status.phase == "Failed":  # evicted, or its machine is gone
        return 1, f"{status.reason or 'the pod failed'}: {status.message or ''}".rstrip(": "), ""
    return None


def _waiting(status: Any) -> str:
    """Why a pod does not run; '' if it does."""
    if status.phase != "Pending":
        return ""
    for one in status.container_statuses or []:
        if one.state and one.state.waiting and one.state.waiting.reason not in (None, "ContainerCreating"):
            return f"{one.state.waiting.reason}: {one.state.waiting.message or ''}".rstrip(": ")
    unmet = [one for one in status.conditions or [] if one.type == "PodScheduled" and one.status == "False"]
    return f"{unmet[0].reason}: {unmet[0].message}" if unmet else ""


def _comparable(stamp: str) -> str:
    """A log's time, whose fraction has as many digits as it needs."""
    head, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{head}.{fraction:0<9}" if stamp else ""


def _age(stamp: str) -> int:
    """Seconds since."""
    moment = datetime.fromisoformat(_comparable(stamp)[:26]).replace(tzinfo=UTC)
    return max(0, int((datetime.now(UTC) - moment).total_seconds()))

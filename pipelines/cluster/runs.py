"""The runs on a Kubeflow Pipelines server: found by id, name or page, stopped, started again, and their logs."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drift.config.places import SHARDED, Places
from drift.config.plan import MODULES
from drift.ground.errors import ConfigError, ServiceError
from drift.ground.findings import Noted
from drift.tracking.runs.records import Records, latest
from pipelines.cluster.follow import run_places
from pipelines.cluster.graph import Graph, fnv, moved
from pipelines.cluster.pods import Pod, Pods
from pipelines.cluster.server import RefusedError, Server, Target, equal
from pipelines.cluster.states import Key, Seen, nodes_of, steps_of

TAIL = 40
"""Lines of a log that are shown."""
IMPLEMENTATION = "system-container-impl"
"""Argo's template of a step's pod (kubeflow/pipelines 2.17, argocompiler/container.go:378), in the pod's name."""


@dataclass(frozen=True)
class StepLog:
    """The end of what a step printed, and from where it was had."""

    step: str
    arm: str
    source: str
    text: str


def find(target: Target, run: str) -> str:
    """The id of a run given by its id, its page, or its name (the newest of that name). Raises ConfigError."""
    given = run.rpartition("/")[2] if "://" in run else run
    if _is_id(given):
        return given
    query = {"filter": equal("display_name", run), "sort_by": "created_at desc", "namespace": target.namespace}
    found = next(Server(target).pages("/runs", "runs", query), None)
    if found is None:
        return _by_id(target, given)
    return str(found["run_id"])


def _by_id(target: Target, run: str) -> str:
    """`run`, if the server knows it as an id."""
    try:
        return str(Server(target).ask("GET", f"/runs/{run}")["run_id"])
    except RefusedError as error:
        if error.status != 404:
            raise
        raise ConfigError(
            f"RUN: no run '{run}' on {target.host}; give its id, its name or its page's address"
        ) from None


def cancel(target: Target, run_id: str) -> None:
    """Ask for the run's end; its pods get up to 90 seconds. Raises ServiceError with what the server says."""
    Server(target).ask("POST", f"/runs/{run_id}:terminate")


def retry(target: Target, run_id: str) -> None:
    """Start the failed steps of an ended run again. Raises ServiceError with what the server says."""
    Server(target).ask("POST", f"/runs/{run_id}:retry")


def runs_of(server: Server, recurring_run_id: str) -> Iterator[dict[str, Any]]:
    """The runs that a schedule has started, the newest first."""
    of = equal("recurring_run_id", recurring_run_id)
    query = {"filter": of, "sort_by": "created_at desc", "namespace": server.target.namespace}
    return server.pages("/runs", "runs", query)


def logs(target: Target, run_id: str, *, step: str = "", arm: str = "", tail: int = TAIL) -> StepLog:
    """The last lines of a step's log; of the first that failed, or else the last that began, if none is named.

    Kubeflow hands out a pod's log as long as there is the pod, and then the archived one if it keeps any; after that, a
    kubeconfig's cluster is asked. Raises ConfigError for a step that is not there, ServiceError if nothing has the log.
    """
    server = Server(target)
    run = server.ask("GET", f"/runs/{run_id}")
    pods = Pods.open(target.namespace, run_id)
    places = run_places(server, run)
    chosen = _chosen(run, pods, places, step.replace("-", "_"), arm)
    names, said = _pod_names(run, places, chosen), []
    for name in names:
        text = server.text("GET", f"/apis/v1alpha1/runs/{run_id}/nodes/{name}/log")
        if not (refused := _refused(text)):
            return StepLog(*chosen, f"pod {name}, by Kubeflow", _end(text, tail))
        said.append(refused)
    for pod in reversed(_of(pods, places, chosen)):
        if pods and (text := pods.log(pod, tail)):
            return StepLog(*chosen, f"pod {pod.name}, by Kubernetes", _end(text, tail))
    why = said[-1] if said else "its pod is not known here"
    raise ServiceError(f"{' '.join(filter(None, chosen))}: no log ({why}); a kubeconfig would be asked too")


def _chosen(run: Mapping[str, Any], pods: Pods | None, places: Places, step: str, arm: str) -> Key:
    """The step and arm that are meant."""
    if step and step not in MODULES:
        raise ConfigError(f"STEP: no step '{step}'; there are {', '.join(MODULES)}")
    known = _known(run, pods, places)
    fitting = [key for key in known if key[0] == (step or key[0]) and key[1] == (arm or key[1])]
    if not fitting:
        raise ConfigError(f"STEP: {step or 'no step'} {arm} has not begun in this run".replace("  ", " "))
    failed = [key for key in fitting if known[key] == "failed"]
    return failed[0] if failed else fitting[-1]


def _known(run: Mapping[str, Any], pods: Pods | None, places: Places) -> dict[Key, str]:
    """State by step and arm, from all that can be asked; what ran last comes last, MLflow's word before the list's."""
    states: dict[Key, str] = {key: seen.state for key, seen in steps_of(nodes_of(run), Graph(), places).items()}
    for pod in _all(pods, places):
        states[(pod.step, pod.arm)] = pod.seen.state
    records = Records.open()
    record = records.read(str(run["run_id"])) if records else None
    told = {"FAILED": "failed", "KILLED": "failed", "FINISHED": "finished"}
    for key, one in latest(record.steps if record else ()).items():
        states[key] = told.get(one.status, "started")
    return states


def _all(pods: Pods | None, places: Places) -> list[Pod]:
    try:
        return pods.read(places) if pods else []
    except Noted:
        return []


def _of(pods: Pods | None, places: Places, key: Key) -> list[Pod]:
    return [pod for pod in _all(pods, places) if (pod.step, pod.arm) == key and not pod.driver]


def _pod_names(run: Mapping[str, Any], places: Places, key: Key) -> list[str]:
    """The names that the step's pod may have: what it told MLflow, and what Argo makes of its place in the graph.

    Argo names a pod `<workflow>-<template>-<hash of the place>` (kubeflow/pipelines 2.17, common/util/workflow.go:390).
    """
    records = Records.open()
    record = records.read(str(run["run_id"])) if records else None
    told = [one.pod for one in (record.steps if record else ()) if (one.step, one.arm) == key and one.pod]
    place = _place(steps_of(nodes_of(run), Graph(), places), places, key)
    if not place:
        return told
    workflow = re.split(r"[(.]", place, maxsplit=1)[0]
    pods = [f"{place}{around}.executor{attempt}" for around in ("(0)", "") for attempt in ("(2)", "(1)", "(0)", "")]
    return told + [f"{workflow}-{template}-{fnv(pod)}" for pod in pods for template in _templates(run, key[0])]


def _place(seen: Mapping[Key, Seen], places: Places, key: Key) -> str:
    """Where the step stands in the graph; of one that the list does not have, by another one's place beside it."""
    numbers = places.iterations(*key)
    near = (other for other in seen if _is_near(other, key) and (numbers or other[1] == key[1]))
    for step, arm in (other for other in (key, *near) if other in seen):
        if found := re.match(rf"(.*\.){step.replace('_', '-')}(\(|\.|$)", seen[step, arm].node):
            inside = found[1] if arm == key[1] else moved(found[1], numbers)
            return f"{inside}{key[0].replace('_', '-')}"
    return ""


def _is_near(other: Key, key: Key) -> bool:
    """Whether a step stands in the graph in which the other one does, or in another iteration of it."""
    if not (other[1] and key[1]):
        return other[1] == key[1] and other[0] != "register"
    return other[0] == key[0] or not {other[0], key[0]} & SHARDED.keys()


def _templates(run: Mapping[str, Any], step: str) -> list[str]:
    """The templates that Kubeflow may have made for a step's pod (argocompiler/container.go:378-403)."""
    platform = (run.get("pipeline_spec") or {}).get("platform_spec") or {}
    executors = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    pod = executors.get(f"exec-{step.replace('_', '-')}", {}).get("podMetadata")
    prefix = f"metadata-{len(pod.get('annotations', {}))}-{len(pod.get('labels', {}))}-" if pod else ""
    return [prefix + IMPLEMENTATION, f"{prefix}retry-{IMPLEMENTATION}"]


def _refused(text: str) -> str:
    """The server's error, which comes with status 200 (apiserver/server/run_log_server.go); "" for a log."""
    try:
        said = json.loads(text)
    except ValueError:
        return ""
    return str(said.get("error_message", "")) if isinstance(said, dict) and "error_message" in said else ""


def _end(text: str, tail: int) -> str:
    return "\n".join(text.splitlines()[-tail:])


def _is_id(text: str) -> bool:
    try:
        return bool(uuid.UUID(text))
    except ValueError:
        return False

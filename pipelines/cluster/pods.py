"""The pods of a run, where a kubeconfig leads to them: the third source of what its steps do, and of why they fail.

Kubeflow labels each with the run's id; Argo notes in each its place in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.config.places import Places
from drift.config.plan import MODULES
from drift.ground.findings import Noted
from pipelines.cluster.api import api, ask
from pipelines.cluster.graph import iterations
from pipelines.cluster.namespace import DEFAULT
from pipelines.cluster.states import DRIVER, Key, Seen, State, step_of

LABEL = "pipeline/runid"
PLACE = "workflows.argoproj.io/node-name"
PHASES: dict[str, State] = {"Running": "started", "Succeeded": "finished", "Failed": "failed"}
TAIL = 40

_ATTEMPT = re.compile(r"\(\d+\)$")


@dataclass(frozen=True)
class Pod:
    """A pod of a step or of its driver, and its place in Argo's graph."""

    name: str
    step: str
    arm: str
    driver: bool
    phase: str
    seen: Seen


class Pods:
    """The pods of one run."""

    def __init__(self, core: Any, namespace: str, run_id: str) -> None:
        self._core, self._namespace, self._run_id = core, namespace, run_id

    @classmethod
    def open(cls, namespace: str | None, run_id: str) -> Pods | None:
        """None where neither a kubeconfig nor a pod's service account leads to a cluster."""
        try:
            return cls(api(), namespace or DEFAULT, run_id)
        except Noted:
            return None

    def read(self, places: Places) -> list[Pod]:
        """Pods of steps and drivers, the oldest first. Raises Noted if the cluster refuses, or does not answer."""
        listed = ask(self._core.list_namespaced_pod, self._namespace, label_selector=f"{LABEL}={self._run_id}")
        pods = [pod for one in (listed.items if listed else ()) if (pod := _pod(one, places))]
        return sorted(pods, key=lambda pod: pod.seen.start.isoformat() if pod.seen.start else "")

    def cause(self, pod: Pod) -> str:
        """Why the pod fails or does not start: what its container ended with, else its last event that warns."""
        if pod.phase == "Failed" and pod.seen.error:
            return pod.seen.error
        chosen = f"involvedObject.name={pod.name},type=Warning"
        events = ask(self._core.list_namespaced_event, self._namespace, field_selector=chosen)
        said = [f"{event.reason}: {event.message}" for event in (events.items if events else ())]
        return " ".join((said[-1] if said else pod.seen.error).split())

    def log(self, pod: Pod, tail: int | None = TAIL) -> str:
        """The last lines that the pod's step printed."""
        more = {"tail_lines": tail} if tail else {}
        read = self._core.read_namespaced_pod_log
        answer = ask(read, pod.name, self._namespace, container="main", _preload_content=False, **more)
        return answer.data.decode(errors="replace") if answer else ""


def steps_of_pods(pods: Sequence[Pod]) -> dict[Key, Seen]:
    """What pods say of each step that has one at work or ended; of several attempts the last."""
    return {(pod.step, pod.arm): pod.seen for pod in pods if not pod.driver and pod.phase in PHASES}


def _pod(pod: Any, places: Places) -> Pod | None:
    path = (pod.metadata.annotations or {}).get(PLACE, "")
    parts = [_ATTEMPT.sub("", part) for part in path.split(".")]
    driver = parts[-1].endswith(DRIVER)
    name = parts[-1].removesuffix(DRIVER) if driver else parts[-2] if len(parts) > 1 else ""
    if step_of(name) not in MODULES:
        return None
    phase = str(pod.status.phase)
    seen = Seen(PHASES.get(phase, "started"), pod.status.start_time, _end(pod), _said(pod), path)
    return Pod(pod.metadata.name, step_of(name), places.of(step_of(name), iterations(path)), driver, phase, seen)


def _states(pod: Any) -> list[Any]:
    return [one.state for one in pod.status.container_statuses or () if one.state]


def _end(pod: Any) -> Any:
    ends = [state.terminated.finished_at for state in _states(pod) if state.terminated and state.terminated.finished_at]
    return max(ends, default=None)


def _said(pod: Any) -> str:
    """Why a pod waits, or how it failed."""
    for state in _states(pod):
        if state.waiting and state.waiting.reason not in (None, "PodInitializing", "ContainerCreating"):
            return f"{state.waiting.reason}: {state.waiting.message or ''}".strip(": ")
        if state.terminated and state.terminated.exit_code:
            return f"{state.terminated.reason or 'Error'}, exit code {state.terminated.exit_code}"
    return str(pod.status.message or "")

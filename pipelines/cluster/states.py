"""How far a run on the cluster is, by what Kubeflow's server says of it: its end, and the state of every step and arm.

A step is a DAG of Argo's with one child `executor`; before it runs its driver, `STEP-driver`. A step from the cache has
SUCCEEDED and its executor was SKIPPED. Around each of them stands, by Kubeflow's default, a node that repeats it (`x`
with the attempt `x(0)`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from drift.config.places import Places, Shards
from drift.config.plan import MODULES
from pipelines.cluster.graph import Graph, iterations

Key = tuple[str, str]
"""A step and its place (`drift.config.places`); "" outside loops."""
State = Literal["started", "finished", "cached", "failed"]
Node = Mapping[str, Any]

STATES: dict[str, State] = {"RUNNING": "started", "SUCCEEDED": "finished", "FAILED": "failed", "ERROR": "failed"}
ENDS = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
DRIVER = "-driver"
SECTIONS = {"generate": "generate", "evaluate": "evaluate_arm"}
"""Steps whose parameter says how many shards a section has."""
AT_ONCE = timedelta(seconds=2)
"""From a cached step's start to the moment at which its executor is left out."""


@dataclass(frozen=True)
class Seen:
    """What one source says of a step: its state, from when to when, and why it failed."""

    state: State
    start: datetime | None = None
    end: datetime | None = None
    error: str = ""
    node: str = ""
    """Its place in Argo's graph."""

    @property
    def seconds(self) -> float:
        return max(0.0, (self.end - self.start).total_seconds()) if self.start and self.end else 0.0


def ended(run: Mapping[str, Any]) -> str | None:
    """SUCCEEDED, FAILED or CANCELED; None while the run goes on.

    A terminated run ends as FAILED on the server, and only its history says CANCELING. A run that was started again
    (`:retry`) is judged by what came after its last end.
    """
    state = run.get("state")
    if state not in ENDS:
        return None
    history = [entry.get("state") for entry in run.get("state_history") or ()]
    before = history[:-1] if history and history[-1] == state else history
    ends = [place for place, one in enumerate(before) if one in ENDS]
    last = before[ends[-1] + 1 :] if ends else before
    return "CANCELED" if "CANCELING" in last or state == "CANCELED" else str(state)


def nodes_of(run: Mapping[str, Any]) -> list[Node]:
    """Argo's nodes, as the server last heard of them."""
    return [node for node in (run.get("run_details") or {}).get("task_details") or () if node.get("display_name")]


def places_of(spec: Mapping[str, Any], runtime: Mapping[str, Any]) -> Places:
    """What the loops of a run go through, by its own arguments, or the pipeline's defaults."""
    inputs = (spec.get("pipeline_spec") or spec).get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    given = {name: one.get("defaultValue") for name, one in inputs.items()} | dict(runtime.get("parameters") or {})
    arms = given.get("arms") or ()
    names = (json.loads(arm)["config"]["name"] for arm in (json.loads(arms) if isinstance(arms, str) else arms))
    sections = {section: json.loads(given.get(step) or "{}").get("config", {}) for section, step in SECTIONS.items()}
    shards = {section: int(one.get("shards", 1)) for section, one in sections.items()}
    return Places(tuple(map(str, names)), Shards(**shards))


def steps_of(nodes: Sequence[Node], graph: Graph, places: Places) -> dict[Key, Seen]:
    """Every step and arm that has begun, or whose driver has failed."""
    paths = graph.paths(nodes)
    skipped = [node for node in nodes if node["display_name"] == "executor" and node.get("state") == "SKIPPED"]
    steps: dict[Key, Seen] = {}
    for node in sorted(nodes, key=lambda node: str(node.get("start_time", ""))):
        path = paths.get(node["task_id"], "")
        step = step_of(node["display_name"])
        key = (step, places.of(step, iterations(path)))
        if key[0] in MODULES and node.get("state") in STATES:
            steps[key] = _step(node, path, nodes, paths, skipped)
    for key, failed in _failed_drivers(nodes, paths, places):
        steps.setdefault(key, failed)
    return steps


def _step(node: Node, path: str, nodes: Sequence[Node], paths: Mapping[str, str], skipped: Sequence[Node]) -> Seen:
    state = STATES[node["state"]]
    start, end = time_of(node.get("start_time")), time_of(node.get("end_time"))
    inside = [one for one in nodes if one["display_name"] == "executor" and _is_in(paths.get(one["task_id"]), path)]
    if inside:
        ran = max(inside, key=lambda one: str(one.get("start_time", "")))
        times = time_of(ran.get("start_time")), time_of(ran.get("end_time")) or end
        return Seen(state, *times, node=paths[ran["task_id"]])
    left_out = start and any(timedelta(0) <= moment - start <= AT_ONCE for moment in map(_start, skipped) if moment)
    if state == "finished" and left_out:
        return Seen("cached", start, end, node=path)
    return Seen(state, start, end, node=path)


def _is_in(inner: str | None, step: str) -> bool:
    return bool(inner and step) and str(inner).startswith((f"{step}(", f"{step}."))


def _failed_drivers(nodes: Sequence[Node], paths: Mapping[str, str], places: Places) -> Iterable[tuple[Key, Seen]]:
    """A step whose driver fails never begins: Argo omits it."""
    for node in nodes:
        name = node["display_name"]
        if name.endswith(DRIVER) and STATES.get(str(node.get("state"))) == "failed":
            path = paths.get(node["task_id"], "")
            step = step_of(name.removesuffix(DRIVER))
            times = _start(node), time_of(node.get("end_time"))
            yield (
                (step, places.of(step, iterations(path))),
                Seen("failed", *times, f"its driver failed before it began ({name})", path),
            )


def step_of(name: str) -> str:
    """A node's name as one of our steps'."""
    return name.replace("-", "_")


def stands_still_since(run: Mapping[str, Any], patience: timedelta) -> datetime | None:
    """When the list of steps last changed, if Kubeflow's own launchers have told of steps since: it is frozen.

    From 1 MiB on, Argo packs the list and the server no longer unpacks it; the launchers' entries, which have no name,
    still come.
    """
    last = last_change(run)
    launched = [_start(node) for node in (run.get("run_details") or {}).get("task_details") or ()
                if not node.get("display_name")]  # fmt: skip
    late = last and any(start - last > patience for start in launched if start)
    return last if late else None


def last_change(run: Mapping[str, Any]) -> datetime | None:
    """When a node of the list last changed its state."""
    changes = (time_of(entry.get("update_time")) for node in nodes_of(run) for entry in node.get("state_history") or ())
    return max((change for change in changes if change), default=None)


def _start(node: Node) -> datetime | None:
    return time_of(node.get("start_time"))


def time_of(text: str | None) -> datetime | None:
    """A moment of the server's; None for year 1, which stands for "not yet"."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)

"""Argo's nodes of a run as Kubeflow's server tells of them, for runs that were not recorded, in the recorded shape.

A step is a node that repeats it, a DAG `STEP(0)` and in it the pod `executor`; ids are the hashes of the places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.cluster.graph import fnv

Body = dict[str, Any]
WORKFLOW = "drift-sft-h7t2k"
TIME = "2026-11-25T03:00:00Z"
NEVER = "0001-01-01T00:00:00Z"
"""The end of a node that has none yet."""
BODY = f"{WORKFLOW}(0).root(0).exit-handler-1(0)"


def nodes_of(tasks: Mapping[str, str], arms: Sequence[str], whole: str) -> list[Body]:
    """The nodes of steps by name, in a loop with their arm (`arm/sft`), in these states; SKIPPED is from the cache.

    ``whole``: the run's state, which the nodes around them have.
    """
    placed = {_place(name, arms): state for name, state in tasks.items()}
    drivers = [f"{place}-driver" for place in placed]
    items = [f"{_item(number)}.iteration-item" for number in range(len(arms))]
    around = {
        WORKFLOW: [f"{WORKFLOW}(0)"],
        f"{WORKFLOW}(0)": [f"{WORKFLOW}(0).root"],
        f"{WORKFLOW}(0).root": [f"{WORKFLOW}(0).root(0)"],
        f"{WORKFLOW}(0).root(0)": [f"{WORKFLOW}(0).root(0).exit-handler-1"],
        f"{WORKFLOW}(0).root(0).exit-handler-1": [BODY],
        BODY: [*drivers, f"{BODY}.for-loop-2"],
        f"{BODY}.for-loop-2": [_item(number) for number in range(len(arms))],
        **{item.removesuffix(".iteration-item"): [item] for item in items},
        **{item: [driver for driver in drivers if driver.startswith(f"{item}.")] for item in items},
    }
    above = [_node(place, whole, *below) for place, below in around.items()]
    return [*above, *(node for place, state in placed.items() for node in _step(place, state))]


def _place(name: str, arms: Sequence[str]) -> str:
    step, _, arm = name.partition("/")
    inside = f"{_item(arms.index(arm))}.iteration-item" if arm else BODY
    return f"{inside}.{step.replace('_', '-')}"


def _item(number: int) -> str:
    return f"{BODY}.for-loop-2.iteration-iterations({number}:{number})"


def _step(place: str, state: str) -> list[Body]:
    """A step's nodes: its driver, and itself once that has ended."""
    driver = f"{place}-driver"
    if state in ("PENDING", "DRIVER_FAILED"):
        said = "RUNNING" if state == "PENDING" else "FAILED"
        return [_node(driver, said, f"{driver}(0)"), _node(f"{driver}(0)", said), _node(place, "")]
    inside, whole = f"{place}(0).executor", "SUCCEEDED" if state == "SKIPPED" else state
    attempts = [] if state == "SKIPPED" else [_node(f"{inside}(0)", state)]
    return [
        _node(driver, "SUCCEEDED", f"{driver}(0)"),
        _node(f"{driver}(0)", "SUCCEEDED", place),
        _node(place, whole, f"{place}(0)"),
        _node(f"{place}(0)", whole, inside),
        _node(inside, state, *(f"{inside}(0)" for _ in attempts)),
        *attempts,
    ]


def _node(place: str, state: str, *children: str) -> Body:
    going = state in ("RUNNING", "PENDING", "")
    return {
        "task_id": f"task-{fnv(place):08x}",
        "display_name": place.rpartition(".")[2],
        "start_time": TIME,
        "end_time": NEVER if going else TIME,
        **({"state": state} if state else {}),
        "state_history": [{"update_time": TIME, **({"state": state} if state else {})}],
        **({"child_tasks": [{"pod_name": f"{WORKFLOW}-{fnv(child)}"} for child in children]} if children else {}),
    }

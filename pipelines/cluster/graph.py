"""Where each node of a run stands in Argo's graph: the server tells a node's name and its children, not its place.

A node's id is `<workflow>-<hash of its path>` (argo-workflows, Workflow.NodeID); a child of the DAG `P` has the path
`P.child`, the attempt k of a node `P` that may be repeated `P(k)`, an iteration of a loop `P.name(k:item)`. So paths
are found by hashing downwards from the root, and keeping what the server knows by id.

fnv  FNV-1a with 32 bits, which goes on from any prefix
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OFFSET, PRIME, BITS = 0x811C9DC5, 0x01000193, 0xFFFFFFFF
ATTEMPTS = 16
"""Attempts of one node that are looked for."""

_ATTEMPT = re.compile(r"\(\d+\)$")
_ITERATION = re.compile(r"\((\d+):[^()]*\)")


def fnv(text: str, state: int = OFFSET) -> int:
    """The hash of what `state` stands for, followed by ``text``."""
    for byte in text.encode():
        state = ((state ^ byte) * PRIME) & BITS
    return state


class Graph:
    """The paths of a run's nodes; those found once are kept from poll to poll."""

    def __init__(self) -> None:
        self._path: dict[int, str] = {}

    def paths(self, nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Path by the node's `task_id`. A node without children cannot be told from its namesakes: it has none."""
        named = [node for node in nodes if node.get("display_name")]
        children = {node["task_id"]: _children(node) for node in named}
        self._find(named, set().union(*children.values()) if children else set())
        places: dict[str, list[str]] = {}
        for path in self._path.values():
            places.setdefault(_last(path), []).append(path)
        owned = {
            node["task_id"]: self._owner(places.get(node["display_name"], []), children[node["task_id"]])
            for node in named
        }
        return {task: path for task, path in owned.items() if path}

    def _find(self, nodes: list[Mapping[str, Any]], ids: set[int]) -> None:
        if not ids - set(self._path):
            return
        workflow = next(child["pod_name"] for node in nodes for child in node.get("child_tasks") or ())
        workflow = workflow.rpartition("-")[0]
        names = {_ATTEMPT.sub("", node["display_name"]) for node in nodes}
        endings = [*(f"({attempt})" for attempt in range(ATTEMPTS)), *(f".{name}" for name in names)]
        self._path[fnv(workflow)] = workflow
        frontier = [(workflow, fnv(workflow))]
        while frontier:
            above, state = frontier.pop()
            for ending in endings:
                id = fnv(ending, state)
                if id in ids and not (ending[0] == "(" and _ATTEMPT.search(above)):
                    self._path[id] = above + ending
                    frontier.append((above + ending, id))

    def _owner(self, places: list[str], children: set[int]) -> str:
        """The one of the ``places`` whose children these are: nodes below it, or beside it and waiting for it."""
        paths = [self._path[child] for child in children if child in self._path]
        scored = [(sum(_near(path, place) for path in paths), place) for place in places]
        best = max(scored, default=(0, ""))
        return best[1] if best[0] else ""


def iterations(path: str) -> tuple[int, ...]:
    """The numbers of the loops' iterations in which the node stands, the outermost first."""
    return tuple(int(number) for number in _ITERATION.findall(path))


def moved(path: str, numbers: Sequence[int]) -> str:
    """The same place in other iterations."""
    others = list(numbers)

    def other(found: re.Match[str]) -> str:
        number = others.pop(0) if others else found[1]
        return f"({number}:{number})"

    return _ITERATION.sub(other, path)


def _children(node: Mapping[str, Any]) -> set[int]:
    ends = (child.get("pod_name", "").rpartition("-")[2] for child in node.get("child_tasks") or ())
    return {int(end) for end in ends if end.isdigit()}


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _near(path: str, place: str) -> int:
    if path.startswith(place):
        return 2
    return int(path.rpartition(".")[0] == place.rpartition(".")[0])

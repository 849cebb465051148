"""Answers of a real control plane: Kubeflow Pipelines 2.17.0 over Argo 4.0.5, polled over whole runs of the miniature.

`recorded/kubeflow/NAME.json.gz` keeps of each poll what had changed since the one before; `refusals.json` statuses and
bodies of refused requests. Only the specifications were left out.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Body = dict[str, Any]
FOLDER = Path(__file__).parent / "recorded" / "kubeflow"
NAMES = tuple(sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz")))
REFUSALS: dict[str, Body] = json.loads((FOLDER / "refusals.json").read_text())


def polls(name: str) -> list[Body]:
    """The answers to `GET /runs/RUN`, in order; each also says when it was had (`at`)."""
    recorded = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    return list(_whole(recorded["run"], recorded["polls"]))


def refusal(case: str, **instead: str) -> tuple[int, Body]:
    """Status and body of a recorded refusal, with other names in place of the recorded ones."""
    text = json.dumps(REFUSALS[case]["answer"])
    for old, new in instead.items():
        text = text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
    return REFUSALS[case]["status"], json.loads(text)


def _whole(run: Body, deltas: list[Body]) -> Iterator[Body]:
    nodes: dict[str, Body] = {}
    for delta in deltas:
        nodes |= {node["task_id"]: node | {"run_id": run["run_id"]} for node in delta["changed"]}
        head = {key: value for key, value in delta.items() if key != "changed"}
        yield run | head | {"run_details": {"task_details": list(nodes.values())}}

"""An ablation on a cluster: one run of the pipeline per cell, with the cells' shared steps from Kubeflow's cache."""

from __future__ import annotations

from drift.planning.ablation.expansion import Ablation
from pipelines.cluster.follow import ClusterRun, OnEvent, OnNote
from pipelines.cluster.server import Target
from pipelines.cluster.submit import submit as submit_chain


def submit(
    ablation: Ablation,
    target: Target,
    *,
    wait: bool = True,
    on_event: OnEvent | None = None,
    on_note: OnNote = lambda note: None,
    poll_seconds: float = 5.0,
) -> list[ClusterRun]:
    """Every cell as a run named after it, in the file's order.

    With `wait` one after the other, so that a cell finds in the cache what those before it have made; a cell that fails
    stops no other. Without, all at once: what cells share is then made by each that comes to it. Raises what
    `pipelines.cluster.submit.submit` raises.
    """
    return [
        submit_chain(
            cell.config,
            target,
            run_name=cell.config.name,
            wait=wait,
            on_event=on_event,
            on_note=on_note,
            poll_seconds=poll_seconds,
        )
        for cell in ablation.cells
    ]

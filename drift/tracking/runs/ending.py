"""How a pipeline run ended, judged by what its own steps say in MLflow.

Kubeflow's word alone does not do: to the exit handler it says RUNNING of a run that the gate refused, of one that came
mostly from the cache, and of one that was terminated; and of a repeated run (`:retry`) it says nothing, since the
handler is not run again.
"""

from __future__ import annotations

from collections.abc import Iterable

from drift.tracking.runs.tracker import Tracker

LAST = "report"
"""The step that is never cached and needs all others but one: once it has finished, they have."""
BESIDE = "register"
"""The one that may be at work beside it."""

BY_STATE = {
    "COMPLETE": "FINISHED",
    "SUCCEEDED": "FINISHED",
    "CACHED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELED": "KILLED",
    "CANCELLED": "KILLED",
}
"""MLflow's word for Kubeflow's: its backend gives the names of MLMD (2.17.0, backend/src/v2/driver/resolve.go:472), its
SDK's local runner SUCCEEDED; "canceled" is spelt in both ways."""


def run_status(state: str, children: Iterable[tuple[str, str]]) -> str:
    """FINISHED, FAILED or KILLED for a run of which Kubeflow says `state`, with (step, status in MLflow) of each child.

    A failed step fails the run, a finished report finishes it; Kubeflow is asked only if there is neither, as in a
    pipeline of others. What it says of no end is KILLED.
    """
    known = list(children)
    if any(status == "FAILED" for _, status in known):
        return "FAILED"
    stopped = any(step == BESIDE and status != "FINISHED" for step, status in known)
    if (LAST, "FINISHED") in known and not stopped:
        return "FINISHED"
    return BY_STATE.get(state, "KILLED")


def finish(tracker: Tracker, state: str) -> None:
    """Close the run, of which Kubeflow says `state`."""
    tracker.finalize(run_status(state, _steps(tracker)))


def finish_reopened(tracker: Tracker, ended: str) -> None:
    """Close a run that a step opened again, if nothing is at work and it is known how it ended; a step ended `ended`.

    Kubeflow runs no exit handler after a retry. Whichever step comes next opens it again.
    """
    if tracker.theirs or tracker.attached or not tracker.was_reopened():
        return
    steps = _steps(tracker)
    status = run_status("", steps)
    if all(one != "RUNNING" for _, one in steps) and (status != "KILLED" or ended == "KILLED"):
        tracker.finalize(status)


def _steps(tracker: Tracker) -> list[tuple[str, str]]:
    return [(run.data.tags["drift.step"], run.info.status) for run in tracker.children()]

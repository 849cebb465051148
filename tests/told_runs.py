"""A run of two arms as its journal tells it, and whether MLflow has all of it, nothing twice."""

from __future__ import annotations

import json
import time
from pathlib import Path

from mlflow import MlflowClient

from drift.cli.app import main
from drift.tracking.runs.tracker import Tracker
from drift.tracking.telling.journal import append
from tests.cluster_steps import by_name

EXPERIMENT = "faults"
ARMS = ("sft", "drift")
POINTS = 20
EVENTS = 11


class ToldRun:
    """The run ``run_id`` in ``folder``, which tells the MLflow at ``address``; its events are told one by one."""

    def __init__(self, folder: Path, run_id: str, address: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.run_id, self.address = folder, run_id, address
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "arm.json").write_text("{}")
        about = {"run_id": run_id, "name": run_id, "experiment": EXPERIMENT, "mlflow_uri": address}
        (folder / "run.json").write_text(json.dumps({**about, "status": "finished"}))
        self._left = iter(self._events())

    def tracker(self) -> Tracker:
        """Its runs in MLflow."""
        return Tracker.open(self.address, experiment=EXPERIMENT, run_id=self.run_id, name=self.run_id)

    def tell(self, count: int = EVENTS) -> None:
        """Write the next `count` events into the journal."""
        for _, event in zip(range(count), self._left, strict=False):
            append(self.folder, event | {"time": time.time()})

    def _events(self) -> list[dict]:
        page, files = self._event("begun", params={"seed": "0"}), [str(self.folder / "config.yaml")]
        arms = [event for arm in ARMS for event in self._arm(arm)]
        return [page, *arms, self._event("files", paths=files), self._event("closed", status="FINISHED")]

    def _arm(self, arm: str) -> list[dict]:
        points = [["train/loss", 1.0 / (at + 1), 1000 + at, at] for at in range(POINTS)]
        return [
            self._event("started", "arm", arm, params={"arm.seed": "0"}, inputs=[]),
            self._event("metrics", "arm", arm, metrics=points),
            self._event("files", "arm", arm, paths=[str(self.folder / "arm.json")]),
            self._event("ended", "arm", arm, status="FINISHED", error=None),
        ]

    def _event(self, kind: str, step: str = "pipeline", arm: str = "", **content: object) -> dict:
        key = "/".join(filter(None, [self.run_id, step if step != "pipeline" else "", arm]))
        return {"key": key, "step": step, "arm": arm, "event": kind, **content}


def require_everything(server: str, run_id: str) -> None:
    """All of the run is at ``server``, nothing twice: runs, parameters, points, files, statuses."""
    client, found = MlflowClient(server), by_name(server, EXPERIMENT)
    mine = {key: run for key, run in found.items() if key.partition("/")[0] == run_id}
    keys = [run_id, *(f"{run_id}/arm/{arm}" for arm in ARMS)]
    assert {key: run.info.status for key, run in mine.items()} == dict.fromkeys(keys, "FINISHED")
    parent = mine[run_id]
    for arm in ARMS:
        run = mine[f"{run_id}/arm/{arm}"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params == {"arm.seed": "0"} and run.data.tags["drift.attempt"] == "1"
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(one.step, one.timestamp) for one in points] == [(at, 1000 + at) for at in range(POINTS)]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["arm.json"]
    assert parent.data.params == {"seed": "0"} and parent.data.tags["drift.tracking"] == "complete"
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["config.yaml"]


def exit_code(*arguments: str) -> int:
    """Of a `drift` command."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0

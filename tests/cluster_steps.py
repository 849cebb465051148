"""Steps as pods of a cluster run them, in this process: what Kubeflow gives them is in the environment."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from drift.config.gate import RegisterConfig
from drift.tracking.plugin import CONFIG, INJECTED
from drift.tracking.steps import finish_pipeline, run_step
from drift.tracking.store import KEY, OURS, RUN

PARAMETER = json.dumps({"config": {"model": "m"}, "code": "", "inputs": {}})


@dataclass(frozen=True)
class Report:
    """Of any step."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        return dict(self.numbers)

    def run_tags(self) -> dict[str, str]:
        return dict(self.tags)


def terminated(_: Any) -> Report:
    """Work that Kubeflow stops."""
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("it goes on after SIGTERM")


class Pods:
    """The pods of a pipeline run, one after another."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None) -> None:
        self.folder, self._patch = folder, monkeypatch
        for name in ("DRIFT_RUN_DIR", "DRIFT_EXPERIMENT", CONFIG, *INJECTED):
            monkeypatch.delenv(name, raising=False)
        self.given = {OURS: uri} if uri else {}

    def _pod(self, run_id: str) -> None:
        """A new pod has what it was given, and nothing that another process set."""
        for name in (OURS, RUN, CONFIG, *INJECTED):
            self._patch.setenv(name, "")
            self._patch.delenv(name)
        for name, value in {"DRIFT_RUN_ID": run_id, **self.given}.items():
            self._patch.setenv(name, value)

    def step(
        self, run_id: str, step: str, work: Callable[[Any], Report] | None = None, *, arm: str = ""
    ) -> BaseException | None:
        """Run a step; what it raised."""
        self._pod(run_id)
        try:
            run_step(step, PARAMETER, RegisterConfig, work or (lambda _: Report()), record=self.folder / "r", arm=arm)
        except (Exception, SystemExit) as error:
            return error
        return None

    def exit_handler(self, run_id: str, state: str) -> None:
        self._pod(run_id)
        finish_pipeline(state)


def by_name(uri: str, experiment: str = "drift") -> dict[str, Run]:
    """Every run of an experiment, by its key."""
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(experiment)
    runs = client.search_runs([known.experiment_id]) if known else []
    return {run.data.tags.get(KEY, run.info.run_name): run for run in runs}


def statuses(uri: str, experiment: str = "drift") -> dict[str, str]:
    """The status of every run, by its key."""
    return {key: run.info.status for key, run in by_name(uri, experiment).items()}

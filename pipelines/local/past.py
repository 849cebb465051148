"""Past runs: the tasks of each, wherever their outputs lie, and what came of it.

A task that the cache answered has its outputs in the folder of the run that did the work. Every task's record holds the
key of its run, step and arm, and the journal of a run that used it names that key: so each is found again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from drift.config.section import suggest
from drift.ground.artifacts import read_json
from drift.ground.errors import ConfigError, DataError
from drift.tracking import store
from drift.tracking.runs.origin import CONFIG_FILE
from drift.tracking.telling.delivery import missing_of
from drift.tracking.telling.journal import read
from pipelines.local.folders import STATE, TASKS, RunFolder, all_runs, store_of
from pipelines.local.result import RunResult, StepResult, lasting, tracking_of

log = logging.getLogger(__name__)

ARMS = "arms"
"""Of a run's folder: links by the names of arms, for people."""
RECORD = "metrics"
"""The output that every task has."""
SCORES = {"evaluate_arm": "scores", "evaluate_vlm": "scores", "evaluate_champion": "scores/scores"}
"""Which output of a step is a folder of scores."""
BASELINES = {"vlm": "evaluate_vlm", "champion": "evaluate_champion"}
"""What is scored beside the arms, and by which step."""


@dataclass(frozen=True)
class Task:
    """A task that ended well, in this run or, `cached`, in an earlier one. `folder` is None once it is gone."""

    step: str
    arm: str
    seconds: float
    cached: bool
    folder: Path | None


@dataclass(frozen=True, eq=False)
class PastRun:
    """A run and its tasks by step and arm."""

    folder: RunFolder
    tasks: Mapping[tuple[str, str], Task]

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def status(self) -> str:
        return str(self.folder.state["status"])

    def output(self, step: str, arm: str, output: str) -> Path | None:
        """An output of a task; None where the task did not end well, or its files are gone."""
        task = self.tasks.get((step, arm))
        path = task.folder / output if task and task.folder else None
        return path if path and path.exists() else None

    def scores(self, who: str) -> Path | None:
        """The scores of an arm, of `vlm` or of `champion`."""
        step, arm = ("evaluate_arm", who) if ("evaluate_arm", who) in self.tasks else (BASELINES.get(who, ""), "")
        return self.output(step, arm, SCORES.get(step, ""))

    def scored(self) -> list[str]:
        """Everything that `scores` knows."""
        return [name for name in (*self.arms, *BASELINES) if self.scores(name)]

    @property
    def arms(self) -> list[str]:
        return [arm for step, arm in self.tasks if step == "arm"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration, whole; empty for a run that died before it was written. Raises DataError."""
        path = self.folder.path / CONFIG_FILE
        try:
            return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise DataError(f"{path}: no configuration; what the run was given is not known") from error

    @cached_property
    def gate(self) -> dict[str, Any] | None:
        """`gate.json`."""
        return self._read("gate", "gate/gate.json")

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """`summary.json`."""
        return self._read("report", "report/summary.json")

    @cached_property
    def registered(self) -> dict[str, Any] | None:
        """What of `registered.json` holds for good."""
        content = self._read("register", "registered/registered.json")
        return content and lasting(content)

    def _read(self, step: str, output: str) -> dict[str, Any] | None:
        path = self.output(step, "", output)
        return read_json(path) if path else None

    def links(self) -> dict[str, dict[str, tuple[Path, Path | None]]]:
        """By arm, `vlm` and `champion`: the link to `model` and `scores`, and where each lies, if it is there."""
        found = {}
        for name in dict.fromkeys((*self.arms, *BASELINES)):
            places = {"model": self.output("arm", name, "model"), "scores": self.scores(name)}
            found[name] = {kind: (self.folder.path / ARMS / name / kind, place) for kind, place in places.items()}
        return found

    def origin(self, task: Task) -> str:
        """The earlier run that did the work of a task; '' where it is this one, `files freed` where they are gone."""
        if not (task.folder and (task.folder / RECORD).exists()):
            return "files freed"
        runs = self.folder.path.parent
        return task.folder.relative_to(runs).parts[0] if task.cached else ""

    def seconds(self) -> float:
        """From its start to the last that it wrote."""
        times = [float(event["time"]) for event, _ in read(self.folder.path)]
        return max([0.0, *times]) - datetime.fromisoformat(self.folder.state["started"]).timestamp() if times else 0.0

    def result(self) -> RunResult | None:
        """What the run gave; None of one that did not come to its report."""
        report = self.output("report", "", "report")
        if not (report and self.gate and self.summary):
            return None
        return RunResult(
            folder=self.folder.path,
            steps=tuple(StepResult(task.step, task.arm, task.seconds, task.cached) for task in self.tasks.values()),
            gate=self.gate,
            summary=self.summary,
            registered=self.registered,
            report=report / "report.html",
            mlflow_uri=store.redact(store_of(self.folder)),
            mlflow_run_id=self.folder.state.get("mlflow_run_id", ""),
            mlflow=self.folder.state.get("mlflow", ""),
            missing=self.missing,
        )

    @cached_property
    def missing(self) -> str:
        """What MLflow does not have of it, and how it gets it; empty if it has everything."""
        return tracking_of(self.folder.path, missing_of(self.folder.path))

    @property
    def failure(self) -> str:
        """What the last step that failed said; '' if none did."""
        ends = [event for event, _ in read(self.folder.path) if event["event"] == "ended" and event.get("error")]
        return f"{' '.join(filter(None, (ends[-1]['step'], ends[-1]['arm'])))}: {ends[-1]['error']}" if ends else ""


def past_runs(runs: Path) -> list[PastRun]:
    """All runs in the folder, the latest first. Raises ConfigError if there is no such folder."""
    if not runs.is_dir():
        raise ConfigError(f"{runs}: no folder of runs; `drift run` makes one, --runs names another")
    folders = list(all_runs(runs))
    places = {key: task for folder in folders for key, task in _own(folder).items()}
    return [PastRun(folder, _tasks(folder, places)) for folder in folders]


def find_run(runs: Path, wanted: str) -> PastRun:
    """A run by its folder, the id of its run or the beginning of either; by a name alone the latest so called.

    Raises ConfigError if there is none.
    """
    known = past_runs(runs)
    asked = Path(wanted).name if (Path(wanted) / STATE).is_file() else wanted
    exact = [run for run in known if asked in (run.name, run.folder.run_id, run.folder.state["name"])]
    near = [run for run in known if run.name.startswith(asked) or run.folder.run_id.startswith(asked)]
    if not asked or not (exact or near):
        names = [run.name for run in known]
        hint = suggest(wanted, names) if names else "; there are none"
        raise ConfigError(f"{wanted}: no run of that name in {runs}{hint}")
    return (exact or near)[0]


def scores_of(runs: Path, wanted: str) -> Path:
    """The folder of scores that `RUN:ARM` names. Raises ConfigError if there is no such run or arm."""
    name, _, who = wanted.rpartition(":")
    run = find_run(runs, name)
    scores = run.scores(who)
    if scores is None:
        raise ConfigError(f"{wanted}: run {run.name} has no scores of '{who}'{suggest(who, run.scored())}")
    return scores


def link_outputs(folder: RunFolder) -> None:
    """`arms/ARM/model` and `arms/ARM/scores` in a run's folder, wherever these lie; links to what is gone are removed.

    Never stops a run: where the file system has no links, there are none.
    """
    try:
        run = next(run for run in past_runs(folder.path.parent) if run.folder.run_id == folder.run_id)
        shutil.rmtree(folder.path / ARMS, ignore_errors=True)
        for links in run.links().values():
            for link, place in links.values():
                _link(link, place)
    except OSError as error:
        log.warning("%s: no links to the arms (%s)", folder.path, error)


def _link(link: Path, place: Path | None) -> None:
    if place:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(place, link.parent))


def task_folders(run: Path) -> Iterator[Path]:
    """The folders of a run's tasks: those of a loop lie in one of each iteration."""
    yield from _tasks_in(run / TASKS)


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())


def _tasks_in(parent: Path) -> Iterator[Path]:
    for folder in sorted(parent.glob("*/")):
        yield from _tasks_in(folder) if folder.name.startswith("for-loop-") else [folder]


def _own(folder: RunFolder) -> dict[str, Path]:
    """Where the outputs of the run's own tasks are, by key."""
    places = {}
    for task in task_folders(folder.path):
        with contextlib.suppress(DataError):  # a task that did not end has no record, or a torn one
            places[str(read_json(task / RECORD)["key"])] = task
    return places


def _tasks(folder: RunFolder, places: Mapping[str, Path]) -> dict[tuple[str, str], Task]:
    tasks = {}
    for event, _ in read(folder.path):
        cached, ended = event["event"] == "cached", event["event"] == "ended" and event["status"] == "FINISHED"
        if cached or ended:
            step, arm = event["step"], event["arm"]
            place = places.get(event["upstream"] if cached else event["key"])
            tasks[step, arm] = Task(step, arm, float(event["seconds"]), cached, place)
    return tasks

"""The tasks of one run on this machine: live events, one log per step, a stop at the first failure, and step processes
that end with the runner, however it ends.

`pipelines.local.kubeflow` puts a `Chain` into Kubeflow's local runner, whose the orchestration and the cache stay.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from kfp.local.status import Status

from drift.config.places import Places
from drift.config.plan import MODULES
from drift.ground.artifacts import PARTIAL, read_json
from drift.ground.errors import HeldError
from drift.ground.locks import LOOK_SECONDS, SUFFIX, Lock, hold
from drift.tracking.runs.carried import journal_of
from drift.tracking.runs.outputs import DEFAULT_UPLOAD, UPLOAD
from drift.tracking.steps import LOGS, run_step
from drift.tracking.telling.journal import append, end, last_error, make_event, step_key
from pipelines.local.folders import TASK_LOG
from pipelines.local.work import ForkServer, Work

logger = logging.getLogger(__name__)

EXIT_TASK = "finalize"
ALWAYS_RUN = ("inputs", "champion", "report", EXIT_TASK)
"""Steps that no cache answers: that one of them runs does not say that others will."""
INSIDE = ("drift.ground.drawing", "statsmodels.stats.proportion")
"""Modules that several steps import inside a function, for the second that each takes."""
GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL when a run is stopped, beside what its trainings are given."""

_ITERATION = re.compile(r"for-loop-\d+-iteration-(\d+)")


@dataclass(frozen=True)
class StepEvent:
    """A step starts, or has ended. `arm` is its place (`drift.config.places`), "" outside loops; `seconds` is 0 at the
    start; what it warned of."""

    step: str
    arm: str
    state: Literal["started", "finished", "cached", "failed"]
    seconds: float = 0.0
    message: str = ""
    log: Path | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A step that ran or came from the cache: what its record says, and where its outputs are."""

    record: Mapping[str, Any]
    outputs: Mapping[str, Any]
    cached: bool


@dataclass
class _Task:
    step: str
    arm: str
    key: str
    started: float
    position: int
    """In the journal, where its own lines begin."""
    log: Path | None = None
    code: int | None = None
    waiting: bool = False


class Chain:
    """The tasks of one run: starts them, hears of them, stops them.

    `places`: of its tasks. `environment`: what the step processes get besides this process's own.
    `server`: starts them, where they are processes.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        places: Places,
        environment: Mapping[str, str],
        on_event: Callable[[StepEvent], None] | None,
        server: ForkServer | None = None,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.done: list[Done] = []
        self.failure: StepEvent | None = None
        self.folder = folder
        self._run_id, self._places = run_id, places
        self.environment = dict(environment)
        self._server = server
        self._grace_seconds = grace_seconds
        self._on_event = on_event or (lambda event: None)
        self._stopped = False
        self._at_work: set[Work] = set()
        self._lock = threading.RLock()
        self._thread = threading.local()

    def stop(self) -> None:
        """Start no further task and end those at work: SIGTERM, and SIGKILL after a grace."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        timer = threading.Timer(self._grace_seconds, self._signal, [signal.SIGKILL])
        timer.daemon = True
        timer.start()

    def execute(self, execute: Callable[..., Any], arguments: dict[str, Any]) -> tuple[dict[str, Any], Status]:
        """One task: nothing once the run is over, else Kubeflow's own way with events around it."""
        step = arguments["task_name"].replace("-", "_")
        iterations = [int(number) for number in _ITERATION.findall(arguments["pipeline_resource_name"])]
        arm = self._places.of(step, iterations)
        task = _Task(step, arm, step_key(self._run_id, step, arm), time.monotonic(), end(self.folder))
        if self._stopped or (self.failure and task.step != EXIT_TASK):
            return {}, Status.FAILURE
        self._thread.task, self._thread.entry = task, None
        try:
            outputs, status = execute(**arguments)
            if status is Status.SUCCESS and task.step != EXIT_TASK and not _imports(arguments):
                self._finish(task, outputs)
        except Exception as error:  # a fault of the wiring; Kubeflow would only print it
            self._fail(task, f"{type(error).__name__}: {error}")
            return {}, Status.FAILURE
        finally:
            if self._thread.entry:
                self._thread.entry.close()
        if status is not Status.SUCCESS:
            self._fail(task)
        return outputs, status

    def look_up(self, get: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        """Kubeflow's look into its cache, whose entry this task then holds until it is over, and fills.

        While another run works at the same entry it is waited for: what that makes is taken.
        """

        def found_or_held(cache: Any, key: str) -> Any:
            lock = Path(cache.cache_root) / f".{key}{SUFFIX}"
            while (found := get(cache, key)) is None and not self._thread.entry and not self._stopped:
                self._thread.entry = self._held(lock)
            return get(cache, key) if found is None else found

        return found_or_held

    def _held(self, path: Path) -> Lock | None:
        """The lock of an entry; None if another run has had it a moment ago."""
        task: _Task = self._thread.task
        try:
            return hold(path)
        except HeldError as error:
            if not task.waiting:
                logger.warning("%s: %s works at the same; waiting for what it makes", task.step, error.holder)
            task.waiting = True
            time.sleep(LOOK_SECONDS)
            return None

    def _finish(self, task: _Task, outputs: dict[str, Any]) -> None:
        cached = task.log is None
        self._keep(task)
        record = read_json(Path(outputs["metrics"].uri))
        if cached and record["key"] != task.key:
            self._link(task, record, journal_of(Path(outputs["metrics"].uri)))
        event = StepEvent(
            task.step,
            task.arm,
            "cached" if cached else "finished",
            time.monotonic() - task.started,
            log=task.log,
            warnings=tuple(record.get("warnings", ())),
        )
        with self._lock:
            self.done.append(Done(record, outputs, cached))
            self._on_event(event)

    def _link(self, task: _Task, record: Mapping[str, Any], journal: str) -> None:
        now = int(time.time() * 1000)
        metrics = [(name, value, now, 0) for name, value in record["metrics"].items()]
        about = {"upstream": record["key"], "journal": journal, "seconds": record["seconds"], "metrics": metrics}
        self._tell(task, "cached", **about, upload=self.environment.get(UPLOAD, DEFAULT_UPLOAD))

    def _keep(self, task: _Task) -> None:
        """The log of a task that has worked, and what Kubeflow and the step noted of it, go to MLflow, however it
        ended."""
        if task.log is not None and task.step != EXIT_TASK:
            paths = [str(path) for path in sorted(task.log.parent.iterdir()) if path.is_file()]
            self._tell(task, "files", paths=paths, at=LOGS)

    def _tell(self, task: _Task, event: str, **content: Any) -> None:
        append(self.folder, make_event(task.key, task.step, task.arm, event, **content))

    def _fail(self, task: _Task, message: str = "") -> None:
        """A step that could not say itself how it ended is spoken for."""
        self._keep(task)
        said = last_error(self.folder, task.key, task.position)
        message = message or said or _end_of(task)
        seconds = time.monotonic() - task.started
        if said is None and not self._stopped:
            self._tell(task, "ended", status="FAILED", error=message, seconds=seconds)
        event = StepEvent(task.step, task.arm, "failed", seconds, message, task.log)
        with self._lock:
            if self.failure is None and not self._stopped:
                self.failure = event
            self._on_event(event)

    def run_process(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run a task's command in a process of a session of its own. Takes the place of Kubeflow's function."""
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
        environment |= {**(env_vars or {}), **self.environment}
        step = self._thread.task.step
        following = [] if step in ALWAYS_RUN else [*MODULES.values(), *INSIDE]

        def start(log: BinaryIO) -> Work:
            assert self._server is not None, "a chain without a fork server runs containers"
            module = MODULES.get(step, run_step.__module__)
            return self._server.start(full_command, environment, Path(log.name), module, following)

        return self._run(full_command, start)

    def run_container(
        self, client: Any, image: str, command: list[str], volumes: dict[str, Any], **settings: Any
    ) -> int:
        """Run a task's command in a container of its image. Takes the place of Kubeflow's function."""
        from pipelines.local import containers  # docker's client

        def start(log: BinaryIO) -> Work:
            return containers.ContainerWork(containers.create(client, image, command, volumes, settings), log)

        return self._run(command, start)

    def _run(self, command: list[str], start: Callable[[BinaryIO], Work]) -> int:
        """Start a task's work, its output in its own log, and wait for it."""
        task: _Task = self._thread.task
        folder = _task_folder(command)
        _clear(folder)
        task.log = folder / TASK_LOG
        with task.log.open("wb") as log:
            with self._lock:
                if self._stopped:
                    return 1
                work = start(log)
                self._at_work.add(work)
                if task.step != EXIT_TASK:
                    self._on_event(StepEvent(task.step, task.arm, "started", log=task.log))
            try:
                task.code = work.wait()
            except BaseException:  # interrupted: do not leave before the step has
                self.stop()
                work.wait()
                raise
            finally:
                self._at_work.discard(work)
        return task.code

    def _signal(self, number: int) -> None:
        for work in list(self._at_work):
            work.send(number)


def _end_of(task: _Task) -> str:
    """How the process of a task ended that said nothing."""
    if task.code is not None and task.code < 0:
        return f"its process was ended by {signal.Signals(-task.code).name} (out of memory?)"
    return f"its process ended with exit code {task.code} before the step began"


def _imports(arguments: Mapping[str, Any]) -> bool:
    """Whether a task only names an artifact that is there: no step, no process and no record."""
    component = arguments["components"][arguments["task_spec"].component_ref.name]
    return bool(arguments["executors"][component.executor_label].WhichOneof("spec") == "importer")


def _task_folder(full_command: Sequence[str]) -> Path:
    executor_input = json.loads(full_command[full_command.index("--executor_input") + 1])
    return Path(executor_input["outputs"]["outputFile"]).parent


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left, except the folders from which a step can go on, and locks."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        if left.suffix in (PARTIAL, SUFFIX):
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()

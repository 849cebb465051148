"""A step on a cluster tells MLflow itself what it does, as the runner's relay does on one machine.

Which run it belongs to depends on Kubeflow's own plugin (`plugin`): off, a parent of ours; on, Kubeflow's root is the
parent; injecting, the step logs into Kubeflow's run of its task. The parent is found by its key in each case.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.config.nodes import SHARED
from drift.ground.artifacts import write_json
from drift.ground.errors import PipelineError, ServiceError
from drift.ground.patience import is_transient, patience_seconds
from drift.tracking.limits import NUMBERS, limit
from drift.tracking.plugin import TASK, Plugin, link, plugin_from_environment, root_of, same_address
from drift.tracking.runs.ending import finish, finish_reopened
from drift.tracking.runs.origin import origin
from drift.tracking.runs.tracker import REOPENED, Tracker, parent_tags, started
from drift.tracking.store import EXPERIMENT, KEY, OURS, RUN, RUN_ID, URI, adopt_address, first_line, open_client, redact
from drift.tracking.telling.delivery import Missing, Relay
from drift.tracking.telling.journal import Event, append

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

ALIVE = "drift.alive"
"""On the run of a step at work: when it last gave a sign of life, in seconds since 1970."""
ALIVE_SECONDS = 60.0
KFP_UI = "DRIFT_KFP_UI"
"""Where people open Kubeflow's pages; the pods do not know it by themselves."""
GONE_SECONDS = 3600.0
"""A run without a sign of life for so long is nobody's any more."""
CLOSED_BY = "drift.closed_by"
RUNNER = {"drift.runner": "kubeflow"}
"""On parents that are made here: only their steps give signs of life."""
TELLING_SECONDS = 300.0
"""How long a step that has done its work waits, at most, for an MLflow that does not answer."""
STOPPED_SECONDS = 15.0
"""The same for a step that is stopped: Kubernetes gives it half a minute."""
SPOOL = "DRIFT_SPOOL"
"""Variable: a folder that outlives the pods, for the journals of their steps."""


def tracker_from_environment() -> Tracker | None:
    """The runs that this step belongs to; None without MLflow. Raises ServiceError."""
    adopt_address()
    plugin, run_id = plugin_from_environment(), os.environ.get(RUN_ID, "")
    if task := os.environ.get(TASK) if os.environ.get(URI) else None:
        return _attached(task, run_id or task, plugin)
    run_id = run_id or "local"
    if plugin and (under := _under(plugin, run_id)):
        return under
    if not (uri := os.environ.get(URI)):
        log.warning("no MLflow: %s is not set", URI)
        return None
    experiment = os.environ.get(EXPERIMENT, "drift")
    tracker = Tracker.open(uri, experiment=experiment, run_id=run_id, name=run_id, tags=RUNNER)
    if tracker.made:
        _welcome(tracker, plugin)
    return tracker


class Pod:
    """A step that tells MLflow itself, from a journal of its own: at once what can be told, the rest while it works and
    at its end. MLflow never stops a step.

    `folder`: of the journal; on a claim it outlives the pod. `patience`: seconds that the step waits, in all, for what
    may pass. Raises ConfigError for no such number.
    """

    def __init__(self, key: str) -> None:
        self.patience = patience_seconds()
        self.missing = Missing(0, 0)
        self._tracker: Tracker | None = None
        self._tracked = True
        self.folder, self._relay = _spool(key, self._apply, self._answers)

    def tell(self, event: Event) -> None:
        """Write it down, and tell it as soon as can be; where it cannot be written, tell it once."""
        try:
            append(self.folder, event)
        except PipelineError as error:  # a full claim is no fault of the step's
            log.warning("%s", error)
            self._relay.tell_once(event)
        if event["event"] == "started":
            self._relay.deliver()
            self._relay.start()
        elif event["event"] == "ended":
            longest = STOPPED_SECONDS if event["status"] == "KILLED" else TELLING_SECONDS
            self.missing = self._relay.finish(min(self.patience, longest))
            if self.missing:
                log.warning("MLflow: %s of %s", self.missing, event["key"])
            else:
                shutil.rmtree(self.folder, ignore_errors=True)

    def untold(self) -> dict[str, Any]:
        """What MLflow does not have, with whose it is; nothing if that is nothing. It goes with the step's outputs."""
        return {"about": _about(), "events": self._relay.untold()} if self.missing else {}

    @contextlib.contextmanager
    def alive(self, step: str, arm: str) -> Iterator[None]:
        """Signs of life while the block runs."""
        over = threading.Event()

        def show(tracker: Tracker) -> None:
            while not over.wait(ALIVE_SECONDS):
                with contextlib.suppress(Exception), limit(NUMBERS):  # no sign is no fault of the step's
                    tracker.client.set_tag(tracker.child(step, arm), ALIVE, str(int(time.time())))

        if self._tracker is not None:
            threading.Thread(target=show, args=(self._tracker,), name="alive", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _answers(self) -> bool:
        return self._tracker is not None and self._tracker.answers()

    def _apply(self, event: Event) -> None:
        if self._tracked and self._tracker is None:
            self._tracker = tracker_from_environment()
            self._tracked = self._tracker is not None
        if (tracker := self._tracker) is None:
            return
        os.environ[RUN] = tracker.parent
        if event["event"] == "started" and not tracker.theirs:
            tracker.reopen()
        tracker.apply(event)
        if event["event"] == "ended":
            finish_reopened(tracker, event["status"])


def _spool(key: str, apply: Callable[[Event], None], answers: Callable[[], bool]) -> tuple[Path, Relay]:
    """A step's journal, on the claim where there is one that can be written and nobody else tells."""
    claim = os.environ.get(SPOOL) or (os.environ[SHARED] + "/spool" if os.environ.get(SHARED) else None)
    if claim:
        try:
            folder = Path(claim) / key
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "spool.json", _about())
            return folder, Relay(folder, apply, answers)
        except (OSError, PipelineError) as error:
            log.warning("%s: what MLflow does not take is not kept there: %s", claim, error)
    folder = Path(tempfile.mkdtemp(prefix="drift-spool-"))
    return folder, Relay(folder, apply, answers)


def _about() -> dict[str, str]:
    """Whose events they are and where they are told, for who sends them later."""
    run_id = os.environ.get(RUN_ID, "local")
    uri = redact(os.environ.get(URI) or os.environ.get(OURS, ""))
    return {"run_id": run_id, "name": run_id, "experiment": os.environ.get(EXPERIMENT, "drift"), "mlflow_uri": uri}


def _attached(task: str, run_id: str, plugin: Plugin | None) -> Tracker:
    uri = os.environ[URI]
    client = open_client(uri)
    try:
        experiment = client.get_run(task).info.experiment_id
        root = plugin and root_of(client, plugin)
        parent = _named(client, root, run_id) if root else task
    except Exception as error:
        raise ServiceError(f"{TASK}: MLflow at {redact(uri)} refuses ({first_line(error)})") from error
    return Tracker(client, uri, experiment, run_id, parent, task=task, theirs=True)


def _under(plugin: Plugin, run_id: str) -> Tracker | None:
    """Our steps under Kubeflow's root; None if that cannot be. What may pass is raised, so that all steps agree."""
    uri = os.environ.get(URI) or plugin.endpoint
    if same_address(uri, plugin.endpoint):
        for name, value in plugin.settings.items():
            os.environ.setdefault(name, value)
    try:
        client = open_client(uri)
        if root := root_of(client, plugin):
            os.environ[URI] = uri
            parent = _named(client, root, run_id)
            return Tracker(client, uri, plugin.experiment_id, run_id, parent, theirs=True)
        log.warning("%s: not where Kubeflow's own plugin logs, %s; two trees", redact(uri), redact(plugin.endpoint))
    except Exception as error:
        if is_transient(error):
            raise ServiceError(f"{redact(uri)}: does not answer ({first_line(error)})") from error
        log.warning("Kubeflow's own run at %s cannot be used: %s; two trees", redact(uri), first_line(error))
    return None


def _named(client: MlflowClient, root: Run, run_id: str) -> str:
    """Kubeflow's root, found by our key from now on."""
    if root.data.tags.get(KEY) != run_id:
        for name, value in ({KEY: run_id} | parent_tags(run_id)).items():
            client.set_tag(root.info.run_id, name, value)
    return str(root.info.run_id)


def _welcome(tracker: Tracker, plugin: Plugin | None) -> None:
    """What is done once in a run, when its parent has been made; nothing of it may stop a step."""
    try:
        tracker.introduce({}, origin("Kubeflow Pipelines") | _kubeflow(tracker.run_id))
        if plugin:
            where = f"{redact(tracker.uri)}/#/experiments/{tracker.experiment_id}/runs/{tracker.parent}"
            link(tracker.client, tracker.parent, where, plugin)
        close_abandoned(tracker)
    except Exception as error:
        log.warning("MLflow at %s: %s", redact(tracker.uri), first_line(error))


def _kubeflow(run_id: str) -> dict[str, str]:
    """Kubeflow's own tag for the page of the run, where its address is known."""
    address = os.environ.get(KFP_UI, "").rstrip("/")
    return {"kfp.pipeline_run_url": f"{address}/#/runs/details/{run_id}"} if address else {}


def close_abandoned(tracker: Tracker) -> None:
    """Close other runs of the experiment whose steps are gone without an exit handler, as when their schedule was
    deleted. A run that only waits, for a GPU say, is opened again by its next step."""
    ours = " and ".join(f"tags.`{name}` = '{value}'" for name, value in RUNNER.items())
    others = f"{ours} and tags.`drift.step` = 'pipeline' and attributes.status = 'RUNNING'"
    for run in tracker.client.search_runs([tracker.experiment_id], others):
        left = Tracker(tracker.client, tracker.uri, tracker.experiment_id, run.data.tags[KEY], run.info.run_id)
        if left.parent == tracker.parent or _last_sign(run, left.children()) > time.time() - GONE_SECONDS:
            continue
        log.warning("run %s gave no sign of life for an hour; it is closed in MLflow", left.run_id)
        left.client.set_tag(left.parent, CLOSED_BY, tracker.run_id)
        finish(left, "")


def _last_sign(parent: Run, children: list[Run]) -> float:
    """When a run showed last that somebody works on it, in seconds since 1970."""
    times = [parent.info.start_time / 1000, float(parent.data.tags.get(REOPENED, 0))]
    for run in children:
        times += [float(run.data.tags.get(ALIVE, 0)), started(run.data.tags), (run.info.end_time or 0) / 1000]
    return max(times)

"""Following a run on the cluster to its end, from wherever and however often: what `submit` and `watch` show.

The end is the server's word with its history. The steps are told by three sources, of which each may be behind: the
server's list (it stands still in big runs), what the steps told MLflow, and the pods where a kubeconfig leads to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

from drift.config.places import Places
from drift.ground.errors import DriftError, PipelineError, ServiceError
from drift.ground.findings import Noted
from drift.tracking.runs.records import Records, RunRecord, latest
from pipelines.cluster.board import ENDED, Board, StepEnd, Told
from pipelines.cluster.graph import Graph
from pipelines.cluster.pods import Pods, steps_of_pods
from pipelines.cluster.server import TOKEN, RefusedError, Server, Target
from pipelines.cluster.states import (
    DRIVER,
    Seen,
    State,
    ended,
    last_change,
    nodes_of,
    places_of,
    stands_still_since,
    steps_of,
)
from pipelines.local.runner import StepEvent

PATIENCE = 900.0
"""Seconds for which a server may be away."""
STILL = 60.0
"""Seconds that Kubeflow's list may be behind MLflow before it is said to stand still."""
STATUSES: dict[str, State] = {"RUNNING": "started", "FINISHED": "finished", "FAILED": "failed", "KILLED": "failed"}
NO_MLFLOW = "MLFLOW_TRACKING_URI is not set here: no verdict, and of more than one arm some steps may not be seen"

OnEvent = Callable[[StepEvent], None]
OnNote = Callable[[str], None]


@dataclass(frozen=True)
class ClusterRun:
    """A run on the cluster. `state`: PENDING, SUCCEEDED, FAILED or CANCELED; the verdict is what it told MLflow."""

    run_id: str
    name: str
    url: str
    state: str
    gate: str = ""
    """passed, refused, or "": not known here."""
    gate_reasons: str = ""
    winner: str = ""
    registered: str = ""
    """models:/NAME/VERSION."""
    mlflow: str = ""
    steps: tuple[StepEnd, ...] = ()
    failure: str = ""
    """Why it failed, in one line."""
    unseen: str = ""
    """Why steps may be missing in `steps`."""

    def require_good(self) -> None:
        """Raises PipelineError if the run has ended otherwise than well."""
        if self.state == "CANCELED":
            raise PipelineError(f"the run was canceled; see {self.url}")
        if self.state == "FAILED":
            raise PipelineError(f"the run failed: {self.failure}; see {self.url}")


class Detached(KeyboardInterrupt):
    """Ctrl-C while following: the run goes on."""


@dataclass
class Follower:
    """Looks at one run again and again. `on_note` hears what is not about a step: a source that lags, a server away."""

    target: Target
    run_id: str
    on_event: OnEvent | None = None
    on_note: OnNote = field(default=lambda note: None)
    poll_seconds: float = 5.0
    patience: float = PATIENCE
    still: float = STILL

    def __post_init__(self) -> None:
        self._server, self._board, self._graph = Server(self.target), Board(self.on_event), Graph()
        self._said: set[str] = set()
        self._places: Places | None = None
        self._records, self._pods = self._open_records(), Pods.open(self.target.namespace, self.run_id)
        self._record: RunRecord | None = None
        self._behind: tuple[Any, float] | None = None
        self._known = False

    def to_the_end(self) -> ClusterRun:
        """Follow until the run has ended. Raises ServiceError if it cannot be followed, Detached at Ctrl-C."""
        try:
            while (state := ended(run := self._look())) is None:
                time.sleep(self.poll_seconds)
        except KeyboardInterrupt:
            raise Detached(f"the run goes on; {self._back()}") from None
        return self._ended(run, state)

    def _look(self) -> dict[str, Any]:
        """One round over all sources."""
        run = self._run()
        if self._places is None:
            self._places = run_places(self._server, run)
        kubeflow = steps_of(nodes_of(run), self._graph, self._places)
        mlflow = self._from_mlflow()
        self._watch_the_list(run, kubeflow, mlflow)
        over = ended(run) is not None
        pods = {key: seen for key, seen in self._from_pods().items()
                if over or seen.state != "failed" or not _at_work(key, kubeflow, mlflow)}  # fmt: skip
        self._board.hear({"mlflow": mlflow, "kubeflow": kubeflow, "pods": pods})
        return run

    # ------------------------------------------------------------------------------- the server

    def _run(self) -> dict[str, Any]:
        """The run, as soon as the server answers: it may be started anew, and the way to it may break."""
        away: float | None = None
        refused_tokens = 0
        while True:
            try:
                run = self._server.ask("GET", f"/runs/{self.run_id}")
            except RefusedError as error:
                refused_tokens += error.status == 401
                away = away or time.monotonic()
                self._bear(error, time.monotonic() - away, refused_tokens)
                time.sleep(self.poll_seconds)
                continue
            if away is not None:
                self.on_note(f"{self.target.host} answers again")
                self._said.discard("away")
            self._known = True
            return run

    def _bear(self, error: RefusedError, seconds: float, refused_tokens: int) -> None:
        """Raise what will not pass by waiting; say the rest once."""
        if error.status == 401 and refused_tokens > 1:
            again = f"the run goes on; export a fresh {TOKEN}, then {self._back()}"
            raise ServiceError(f"{self.target.host} no longer takes the token ({error}): {again}") from None
        unknown = error.status == 404 and self.run_id in str(error)
        if error.status == 403 or unknown or not self._known:
            raise error
        if seconds > self.patience:
            self._give_up(error)
        self._note("away", f"{error}; the run goes on, and it is asked again for {self.patience / 60:.0f} minutes")

    def _give_up(self, error: RefusedError) -> NoReturn:
        said = f"not for {self.patience / 60:.0f} minutes ({error})"
        raise ServiceError(f"{self.target.host} does not answer, {said}; the run goes on: {self._back()}") from None

    def _back(self) -> str:
        return f"`drift watch {self.run_id} --host {self.target.host}` comes back to it"

    # ------------------------------------------------------------------------- the other sources

    def _open_records(self) -> Records | None:
        try:
            records = Records.open()
        except ServiceError as error:
            self._note("mlflow", str(error))
            return None
        if records is None:
            self._note("mlflow", NO_MLFLOW)
        return records

    def _from_mlflow(self) -> Told:
        if self._records is None:
            return {}
        try:
            self._record = self._records.read(self.run_id) or self._record
        except ServiceError as error:
            self._note("mlflow away", f"{error}; what follows is from Kubeflow")
        else:
            if "mlflow away" in self._said:
                self._said.discard("mlflow away")
                self.on_note("MLflow answers again")
        steps = latest(self._record.steps if self._record else ())
        return {key: _told(record) for key, record in steps.items() if record.status in STATUSES}

    def _from_pods(self) -> Told:
        if self._pods is None:
            return {}
        try:
            pods = self._pods.read(self._places or Places())
            for pod in pods:
                if pod.phase == "Pending" and (why := self._pods.cause(pod)):
                    what = " ".join(filter(None, (pod.step, pod.arm, "driver" if pod.driver else "")))
                    self._note(f"{pod.name} {why.partition(':')[0]}", f"{what} waits: {why}")
        except Noted as reason:
            self._note("pods", f"pods are not looked at: {reason}")
            self._pods = None
            return {}
        return steps_of_pods(pods)

    def _watch_the_list(self, run: Mapping[str, Any], kubeflow: Told, mlflow: Told) -> None:
        """Say it once when Kubeflow's list of steps has stood still while the steps went on."""
        since = stands_still_since(run, timedelta(seconds=STILL))
        behind = any(seen.state in ENDED and not _ended_in(kubeflow, key) for key, seen in mlflow.items())
        last = last_change(run)
        if not behind:
            self._behind = None
        elif self._behind is None or self._behind[0] != last:
            self._behind = (last, time.monotonic())
        elif time.monotonic() - self._behind[1] >= self.still:
            since = since or last
        if since and ended(run) is None:
            at = f"{since.astimezone():%H:%M:%S}"
            source = "MLflow" if self._records else "the pods" if self._pods else ""
            told = f"what follows is from {source}" if source else "what follows is not seen; set MLFLOW_TRACKING_URI"
            self._note("still", f"Kubeflow's list of steps has stood still since {at}; {told}")

    def _note(self, about: str, note: str) -> None:
        if about not in self._said:
            self._said.add(about)
            self.on_note(note)

    # ---------------------------------------------------------------------------------- the end

    def _ended(self, run: Mapping[str, Any], state: str) -> ClusterRun:
        tags = self._record.tags if self._record else {}
        return ClusterRun(
            self.run_id,
            str(run.get("display_name", "")),
            self.target.page(self.run_id),
            state,
            gate=tags.get("drift.gate", ""),
            gate_reasons=tags.get("drift.gate_reasons", ""),
            winner=tags.get("drift.winner", ""),
            registered=tags.get("drift.registered", ""),
            mlflow=self._record.url if self._record else "",
            steps=self._board.steps(),
            failure=self._failure(run) if state == "FAILED" else "",
            unseen=self._unseen(run),
        )

    def _unseen(self, run: Mapping[str, Any]) -> str:
        """Why steps that ran may not have been seen: the list is from before the end, and MLflow has none."""
        if self._record or all(node.get("state") not in ("RUNNING", "PENDING") for node in nodes_of(run)):
            return ""
        why = "MLflow knows nothing of the run" if self._records else "MLFLOW_TRACKING_URI is not set here"
        return f"Kubeflow's list of steps stood still, and {why}"

    def _failure(self, run: Mapping[str, Any]) -> str:
        """The step that failed first and why; then the others' names."""
        failed = self._board.failed()
        if not failed:
            drivers = [node["display_name"] for node in nodes_of(run) if node.get("state") == "FAILED"]
            named = [name for name in drivers if name.endswith(DRIVER)]
            told = f"; {named[0]} failed" if named else ""
            return f"no step was seen to fail{told}; `drift logs {self.run_id}` shows what can be had"
        known = next((key for key, seen in failed.items() if seen.error), next(iter(failed)))
        why = failed[known].error or self._cause_by_pods(known)
        others = [" ".join(filter(None, key)) for key in failed if key != known]
        first = " ".join(filter(None, known)) + (f" ({why})" if why else "")
        return f"{first}{'; so did ' + ', '.join(others) if others else ''}"

    def _cause_by_pods(self, key: tuple[str, str]) -> str:
        if self._pods is None:
            return ""
        try:
            pods = [pod for pod in self._pods.read(self._places or Places()) if (pod.step, pod.arm) == key]
            return self._pods.cause(pods[-1]) if pods else ""
        except Noted:
            return ""


def follow(target: Target, run_id: str, **how: Any) -> ClusterRun:
    """Follow a run to its end (`Follower`). Raises ServiceError, or Detached at Ctrl-C."""
    return Follower(target, run_id, **how).to_the_end()


def run_places(server: Server, run: Mapping[str, Any]) -> Places:
    """What the run's loops go through; nothing where the pipeline cannot be read."""
    spec = run.get("pipeline_spec") or {}
    version = run.get("pipeline_version_reference") or {}
    if not spec and version.get("pipeline_version_id"):
        place = f"/pipelines/{version.get('pipeline_id')}/versions/{version['pipeline_version_id']}"
        try:
            spec = server.ask("GET", place).get("pipeline_spec") or {}
        except DriftError:
            return Places()
    return places_of(spec, run.get("runtime_config") or {})


def _told(record: Any) -> Seen:
    state = "cached" if record.cached and record.status == "FINISHED" else STATUSES[record.status]
    error = record.error or ("was stopped" if record.status == "KILLED" else "")
    return Seen(state, record.start, record.end, error)


def _ended_in(told: Told, key: tuple[str, str]) -> bool:
    return key in told and told[key].state in ENDED


def _at_work(key: tuple[str, str], *sources: Told) -> bool:
    return any(key in told and told[key].state == "started" for told in sources)

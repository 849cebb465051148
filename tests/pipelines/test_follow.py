"""Runs of a real control plane, replayed poll by poll, with beside them what their steps told MLflow."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drift.config.file import load
from drift.config.plan import plan
from drift.ground.errors import PipelineError, ServiceError
from drift.tracking.runs.records import read_run
from drift.tracking.runs.tracker import Tracker
from drift.tracking.telling.journal import step_key
from pipelines.cluster.follow import ClusterRun, Detached, follow
from pipelines.cluster.server import Target
from pipelines.cluster.states import ended, stands_still_since
from pipelines.local.runner import StepEvent
from tests.kfp_recordings import NAMES, polls
from tests.kfp_server import KubeflowServer
from tests.mlflow_store import fresh_store

ROOT = Path(__file__).parents[2]
CONFIG = load(ROOT / "configs" / "miniature.yaml")
ARMS = list(CONFIG.arms)
SINGLES = ("inputs", "champion", "start", "evaluate_champion", "ingest", "deltas", "evaluate_vlm", "generate", "curate")
LOOP = [(step, arm) for arm in ARMS for step in ("arm", "evaluate_arm")]
CHAMPION = "models:/drift-miniature/1: cannot be downloaded (Could not find a registered artifact repository)"
Row = tuple[str, str, str, str, str, str]
"""Step, arm, start, end, status, error."""


def ran(step: str, arm: str, start: str, end: str, status: str = "FINISHED", error: str = "") -> Row:
    return step, arm, f"11:{start}", f"11:{end}", status, error


TOLD: dict[str, list[Row]] = {
    "first-run": [
        *(ran("arm", *row) for row in (
            ("sft", "12:43", "13:42"), ("drift_paper", "12:44", "13:43"), ("drift", "12:44", "13:44"),
            ("task_arithmetic", "12:45", "12:56"), ("merge_then_sft", "13:02", "13:56"))),
        *(ran("evaluate_arm", *row) for row in (
            ("task_arithmetic", "13:57", "14:22"), ("sft", "14:07", "14:31"), ("drift_paper", "14:07", "14:32"),
            ("drift", "14:28", "14:53"), ("merge_then_sft", "14:48", "15:14"))),
        ran("gate", "", "15:40", "15:47"), ran("register", "", "16:11", "16:20"), ran("report", "", "16:21", "16:27"),
    ],
    "lost-plain": [
        *(ran("arm", *row) for row in (
            ("task_arithmetic", "31:28", "31:42"), ("sft", "31:28", "32:45"), ("drift_paper", "31:28", "32:50"),
            ("merge_then_sft", "31:49", "33:08"), ("drift", "32:24", "33:40"))),
        *(ran("evaluate_arm", *row) for row in (
            ("task_arithmetic", "34:27", "35:19"), ("sft", "35:54", "36:46"), ("drift_paper", "35:59", "36:46"),
            ("merge_then_sft", "36:12", "36:51"), ("drift", "36:52", "37:27"))),
        ran("gate", "", "37:53", "38:09"), ran("register", "", "38:36", "38:53"), ran("report", "", "39:00", "39:10"),
    ],
    "terminated": [
        *(ran("arm", *row) for row in (
            ("task_arithmetic", "33:14", "33:28"), ("drift", "32:51", "34:12"), ("drift_paper", "32:56", "34:20"),
            ("merge_then_sft", "33:35", "35:09"), ("sft", "34:19", "35:09"))),
        *(ran("evaluate_arm", *row) for row in (
            ("task_arithmetic", "35:02", "35:45"), ("drift", "35:17", "36:04"), ("drift_paper", "35:52", "36:45"))),
        ran("evaluate_arm", "sft", "37:00", "38:12", "KILLED"),
    ],
    "broken": [
        ran("evaluate_champion", "", "26:03", "26:20", "FAILED", CHAMPION),
        ran("inputs", "", "25:31", "25:48", "FAILED", "ingest.source: '/data/none.parquet' does not exist"),
    ],
    "broken-retried": [
        ran("inputs", "", "40:24", "40:42", "FAILED", "ingest.source: '/data/none.parquet' does not exist"),
        ran("evaluate_champion", "", "40:24", "40:43", "FAILED", CHAMPION),
    ],
    "champion-not-fetched": [ran("evaluate_champion", "", "26:04", "26:20", "FAILED", CHAMPION)],
}  # fmt: skip
"""What the steps told MLflow after the list stood still, in the launchers' own times, and why steps failed."""


def when(at: str) -> float:
    """A time of the recordings' day, in seconds since 1970."""
    return datetime.fromisoformat(f"2026-11-26T{at}Z").timestamp()


class Steps:
    """The steps of a run on the cluster, as they talk to MLflow: each when its time has come."""

    def __init__(self, store: str, run_id: str, told: list[Row], tags: dict[str, str]) -> None:
        self.tracker = Tracker.open(store, experiment="drift", run_id=run_id, name=run_id)
        self.told, self.tags, self.lock, self.done = told, tags, threading.Lock(), set[tuple[str, str, str]]()

    def __call__(self, at: str) -> None:
        with self.lock:
            for step, arm, start, end, status, error in self.told:
                if start <= at:
                    self._once(step, arm, "started", start, params={}, inputs=[])
                if end <= at:
                    self._once(step, arm, "ended", end, status=status, error=error or None, started=when(start))
            for name, value in self.tags.items():
                self.tracker.client.set_tag(self.tracker.parent, name, value)

    def _once(self, step: str, arm: str, event: str, at: str, **content: Any) -> None:
        if (step, arm, event) in self.done:
            return
        self.done.add((step, arm, event))
        key = step_key(self.tracker.run_id, step, arm)
        self.tracker.apply({"key": key, "step": step, "arm": arm, "event": event, "time": when(at), **content})


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KFP_EXISTING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none.yaml"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store(tmp_path))
    return fresh_store(tmp_path)


@contextmanager
def replaying(name: str, store: str | None = None, **tags: str) -> Iterator[tuple[KubeflowServer, str]]:
    """A server that replays the recording, and the run's id; with a store its steps talk to that."""
    run_id = polls(name)[0]["run_id"]
    telling = (
        Steps(store, run_id, TOLD.get(name, []), {f"drift.{tag}": value for tag, value in tags.items()})
        if store
        else lambda at: None
    )
    with KubeflowServer(recording=name, on_poll=telling) as server:
        server.runs[run_id]["runtime_config"] = {"parameters": {"arms": plan(CONFIG, local=False).arguments()["arms"]}}
        yield server, run_id


def watched(name: str, store: str | None = None, **tags: str) -> tuple[ClusterRun, list[StepEvent], list[str]]:
    """The run's end, every event and every note."""
    events: list[StepEvent] = []
    notes: list[str] = []
    with replaying(name, store, **tags) as (server, run_id):
        run = follow(
            Target(server.url), run_id, on_event=events.append, on_note=notes.append, poll_seconds=0.0, still=0.0
        )
    return run, events, notes


def ends(run: ClusterRun) -> dict[tuple[str, str], str]:
    return {(step.step, step.arm): step.state for step in run.steps}


WHOLE = {(step, ""): {"finished"} for step in SINGLES} | {key: {"finished"} for key in LOOP}
RIGHT: dict[str, tuple[str, set[tuple[str, str]]]] = {
    "first-run": ("SUCCEEDED", {*WHOLE, ("gate", ""), ("register", ""), ("report", "")}),
    "refused": ("SUCCEEDED", {*WHOLE, ("gate", ""), ("report", "")}),
    "mostly-cached": ("SUCCEEDED", {*WHOLE, ("gate", ""), ("register", ""), ("report", "")}),
    "lost-plain": ("SUCCEEDED", {*WHOLE, ("gate", ""), ("register", ""), ("report", "")}),
    "terminated": ("CANCELED", {*WHOLE} - {("evaluate_arm", "merge_then_sft")}),
    "champion-not-fetched": ("FAILED", {*WHOLE}),
    "broken": ("FAILED", {("inputs", ""), ("champion", ""), ("start", ""), ("evaluate_champion", "")}),
    "broken-retried": ("FAILED", {("inputs", ""), ("champion", ""), ("start", ""), ("evaluate_champion", "")}),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_step_of_every_arm_is_shown_to_its_end_and_the_run_ends_as_it_did(name: str, store: str) -> None:
    run, events, _ = watched(name, store)
    state, steps = RIGHT[name]
    assert run.state == state
    assert set(ends(run)) == steps
    assert "started" not in ends(run).values()
    assert {(event.step, event.arm) for event in events if event.state != "started"} == steps


def test_the_recordings_that_froze_say_so_once_and_what_follows_is_from_mlflow(store: str) -> None:
    run, events, notes = watched("first-run", store)
    (said,) = [note for note in notes if "stood still" in note]
    assert re.search(r"list of steps has stood still since \d\d:\d\d:\d\d; what follows is from MLflow", said)
    assert [event.step for event in events][-3:] == ["register", "report", "report"]
    assert run.unseen == ""


@pytest.mark.parametrize("name", ["first-run", "lost-plain", "terminated"])
def test_without_mlflow_a_list_that_stands_still_is_told_all_the_same(name: str) -> None:
    run, _, notes = watched(name)
    assert [note for note in notes if "stood still since" in note and "set MLFLOW_TRACKING_URI" in note]
    assert "MLFLOW_TRACKING_URI is not set here" in run.unseen
    assert run.state == RIGHT[name][0]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"first-run", "lost-plain", "terminated"}))
def test_a_list_that_moves_is_enough(name: str) -> None:
    run, _, notes = watched(name)
    assert not [note for note in notes if "stood still" in note]
    assert (run.state, set(ends(run)), run.unseen) == (*RIGHT[name], "")


def test_a_step_from_the_cache_is_shown_as_cached_and_one_that_ran_with_its_own_seconds(store: str) -> None:
    run, _, _ = watched("refused", store)
    seen = ends(run)
    assert {seen[key] for key in LOOP} == {"cached"} and seen[("ingest", "")] == "cached"
    assert (seen[("inputs", "")], seen[("gate", "")]) == ("finished", "finished")
    seconds = {(step.step, step.arm): step.seconds for step in run.steps}
    assert seconds[("inputs", "")] == 94.0 and seconds[("gate", "")] == 23.0


def test_each_arm_has_its_own_name_and_seconds() -> None:
    run, _, _ = watched("lost-plain")
    seconds = {step.arm: step.seconds for step in run.steps if step.step == "arm"}
    assert seconds == {
        "sft": 95.0,
        "drift_paper": 95.0,
        "drift": 149.0,
        "task_arithmetic": 21.0,
        "merge_then_sft": 117.0,
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("champion-not-fetched", rf"the run failed: evaluate_champion \({re.escape(CHAMPION)}\); see http"),
        ("broken", r"inputs \(ingest.source: '/data/none.parquet' does not exist\); so did evaluate_champion; see"),
        ("broken-retried", r"inputs \(ingest.source: .* does not exist\); so did evaluate_champion; see"),
        ("terminated", r"the run was canceled; see http.*/#/runs/details/"),
    ],
)
def test_a_run_that_did_not_end_well_says_why(name: str, message: str, store: str) -> None:
    run, _, _ = watched(name, store)
    with pytest.raises(PipelineError, match=message):
        run.require_good()


def test_what_is_started_again_is_shown_again(store: str) -> None:
    _, events, _ = watched("broken-retried", store)
    told = [event.state for event in events if event.step == "inputs"]
    assert told == ["failed", "started", "failed"]


def test_the_verdict_is_what_the_run_told_mlflow(store: str) -> None:
    run, _, _ = watched("refused", store, gate="refused", gate_reasons="retention lost 2 points", winner="drift")
    assert (run.gate, run.gate_reasons, run.winner) == ("refused", "retention lost 2 points", "drift")
    assert run.mlflow.startswith("sqlite:///")
    run.require_good()  # a refusal is no failure


def test_a_page_that_kubeflows_plugin_made_is_read_too(store: str) -> None:
    """Its tag `kfp.pipeline_run_id` is on the root alone; our steps are below it."""
    from drift.tracking.store import open_client

    client = open_client(store)
    home = client.create_experiment("KFP-Default")
    root = client.create_run(home, run_name="a run", tags={"kfp.pipeline_run_id": "r7"})
    below = {"mlflow.parentRunId": root.info.run_id}
    client.create_run(home, run_name="arm", tags=below)  # Kubeflow's own
    ours = client.create_run(home, run_name="arm sft", tags=below | {"drift.step": "arm", "drift.arm": "sft"})
    client.set_terminated(ours.info.run_id, "FAILED")
    record = read_run("r7")
    assert record and [(one.step, one.arm, one.status) for one in record.steps] == [("arm", "sft", "FAILED")]
    assert read_run("another") is None


# ------------------------------------------------------------------------------------- what breaks


def followed(server: KubeflowServer, **how: Any) -> tuple[ClusterRun, list[str]]:
    notes: list[str] = []
    server.runs["r1"] = {"run_id": "r1", "display_name": "mine"}
    how = {"poll_seconds": 0.01, **how}
    return follow(Target(server.url), "r1", on_note=notes.append, **how), notes


@pytest.mark.parametrize("status", [503, 502, 500, 429, 0])
def test_a_server_that_is_away_for_a_while_is_said_once_and_waited_for(status: int) -> None:
    tasks = {"ingest": ("RUNNING", "SUCCEEDED")}
    with KubeflowServer(tasks=tasks, interruptions=[status] * 3) as server:
        run, notes = followed(server)
    assert run.state == "SUCCEEDED"
    away = [note for note in notes if "the run goes on" in note]
    assert len(away) == 1 and notes[-1] == f"{server.url} answers again"


def test_a_server_that_stays_away_ends_the_following_with_the_way_back() -> None:
    with (
        KubeflowServer(interruptions=[503] * 99) as server,
        pytest.raises(ServiceError, match=r"does not answer.*the run goes on: `drift watch r1 --host http"),
    ):
        followed(server, patience=0.05)


def test_a_token_that_has_ended_says_how_to_come_back() -> None:
    with (
        KubeflowServer(interruptions=[401] * 2) as server,
        pytest.raises(ServiceError, match=r"no longer takes the token.*fresh KFP_EXISTING_TOKEN, then `drift watch r1"),
    ):
        followed(server)


def test_a_pods_token_that_was_renewed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))

    def renew(event: StepEvent) -> None:
        server.token = "new"
        token.write_text("new")

    with KubeflowServer(tasks={"ingest": ("RUNNING", "SUCCEEDED")}, token="old") as server:
        run, _ = followed(server, on_event=renew)
    assert run.state == "SUCCEEDED"


def test_an_unknown_run_is_the_servers_own_line() -> None:
    with KubeflowServer() as server, pytest.raises(ServiceError, match=r"answers 404: .*Run r9 not found"):
        follow(Target(server.url), "r9")


def test_a_driver_that_fails_names_its_step() -> None:
    with KubeflowServer(tasks={"arm/sft": ("DRIVER_FAILED",)}, states=("RUNNING", "FAILED")) as server:
        server.runs["r1"] = {"run_id": "r1"}
        run, _ = followed(server)
    assert run.failure.startswith("arm #1 (its driver failed before it began (arm-driver))")


def test_ctrl_c_ends_the_following_and_not_the_run() -> None:
    def interrupt(event: StepEvent) -> None:
        raise KeyboardInterrupt

    with (
        KubeflowServer(tasks={"ingest": ("RUNNING",)}) as server,
        pytest.raises(Detached, match="the run goes on; `drift watch r1 --host"),
    ):
        followed(server, on_event=interrupt)


def test_mlflow_that_is_away_is_said_once_and_does_not_end_the_following(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with KubeflowServer(tasks={"ingest": ("RUNNING", "SUCCEEDED")}) as server:
        run, notes = followed(server)
    assert run.state == "SUCCEEDED"
    assert len([note for note in notes if "MLflow at http://127.0.0.1:9 does not answer" in note]) == 1


def test_the_history_tells_a_canceled_run_from_a_failed_one_and_a_second_try_from_the_first() -> None:
    def history(*states: str) -> dict[str, Any]:
        return {"state": states[-1], "state_history": [{"state": state} for state in states]}

    assert ended(history("PENDING", "RUNNING")) is None
    assert ended(history("PENDING", "RUNNING", "CANCELING")) is None
    assert ended(history("PENDING", "RUNNING", "CANCELING", "FAILED")) == "CANCELED"
    assert ended(history("RUNNING", "CANCELING", "FAILED", "RUNNING")) is None
    assert ended(history("RUNNING", "CANCELING", "FAILED", "RUNNING", "SUCCEEDED")) == "SUCCEEDED"
    assert ended(history("RUNNING", "FAILED", "RUNNING", "FAILED")) == "FAILED"


def test_the_moment_at_which_a_list_froze_is_that_of_its_last_change() -> None:
    since = stands_still_since(polls("first-run")[-1], timedelta(minutes=1))
    assert since and f"{since:%H:%M:%S}" == "11:13:14"

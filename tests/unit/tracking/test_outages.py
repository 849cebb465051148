"""A real MLflow server that is stopped while a run tells it and started again on the same store, and runs that are
deleted there meanwhile: in the end everything is there, once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.tracking.runs.tracker import Tracker
from drift.tracking.telling.delivery import Relay
from drift.tracking.telling.live import Live
from tests.cluster_steps import Pods, Report, by_name, statuses
from tests.end_to_end.chain import write_config
from tests.forked import drift
from tests.mlflow_server import Server, impatient
from tests.small_disk import small_disk
from tests.told_runs import EXPERIMENT, ToldRun, exit_code, require_everything

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
STOPS = (signal.SIGTERM, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    impatient(monkeypatch)


@pytest.mark.parametrize("stop", STOPS)
def test_a_server_that_is_stopped_in_mid_run_has_everything_when_it_is_back(
    stop: signal.Signals, server: Server, tmp_path: Path
) -> None:
    run = ToldRun(tmp_path / "run", f"back-{stop.name}", server.address)
    tracker = run.tracker()
    relay = Relay(run.folder, tracker.apply, tracker.answers)
    relay.start()
    run.tell(3)
    server.stop(stop)
    run.tell(5)
    server.start()
    run.tell()
    missing = relay.finish()
    tracker.note_missing(missing)
    assert not missing
    require_everything(server.address, run.run_id)


@pytest.mark.parametrize("stop", STOPS)
def test_a_server_that_is_back_after_the_run_gets_the_rest_by_drift_track(
    stop: signal.Signals, server: Server, tmp_path: Path
) -> None:
    run = ToldRun(tmp_path / "run", f"late-{stop.name}", server.address)
    tracker = run.tracker()
    relay = Relay(run.folder, tracker.apply, tracker.answers)
    relay.start()
    run.tell(3)
    server.stop(stop)
    run.tell()
    assert relay.finish(0.0).events >= 8
    assert exit_code("track", str(run.folder)) == 2, "one line, since nobody answers"
    server.start()
    assert exit_code("track", str(run.folder)) == 0
    require_everything(server.address, run.run_id)


@pytest.mark.parametrize("back", ["before the step's end", "after it"])
def test_a_step_on_a_cluster_outlives_its_server(
    back: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "60" if back.startswith("before") else "0")
    pods, run_id = Pods(tmp_path, monkeypatch, server.address), f"pod-{back.partition(' ')[0]}"

    def work(_: object) -> Report:
        live = Live(0)
        for step in range(1, 11):
            live.tell({"train/loss": 1.0 / step}, step, at=1000.0 + step)
            if step == 5:
                server.stop(signal.SIGKILL)
        if back.startswith("before"):
            server.start()
        return Report({"train/steps": 10.0})

    assert pods.step(run_id, "arm", work) is None
    if back == "after it":
        server.start()
        assert exit_code("track", str(tmp_path / "r")) == 0
    client, run = MlflowClient(server.address), by_name(server.address)[f"{run_id}/arm"]
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert run.info.status == "FINISHED"
    assert [(one.step, one.timestamp) for one in points] == [(at, 1000_000 + 1000 * at) for at in range(1, 11)]
    assert len(client.get_metric_history(run.info.run_id, "train/steps")) == 1


def test_a_full_disk_ends_a_run_on_one_line_and_leaves_nothing_running(server: Server, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    config = write_config(tmp_path, name="full")
    with small_disk(tmp_path / "runs", "100k"):
        ended = drift("run", "-c", str(config), MLFLOW_TRACKING_URI=server.address)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "No space left on device" in ended.stderr.splitlines()[-1]
    assert by_name(server.address, "full") and set(statuses(server.address, "full").values()) <= {"FINISHED", "FAILED"}


DELETED: dict[str, Callable[[MlflowClient, Tracker], None]] = {
    "the experiment": lambda client, tracker: client.delete_experiment(tracker.experiment_id),
    "the run": lambda client, tracker: client.delete_run(tracker.parent),
    "a step": lambda client, tracker: client.delete_run(tracker.child("arm", "sft")),
}


@pytest.mark.parametrize("moment", [0, 4])
@pytest.mark.parametrize("what", DELETED)
def test_what_is_deleted_while_the_run_tells_it_is_restored_by_drift_track(
    what: str, moment: int, server: Server, tmp_path: Path
) -> None:
    run = ToldRun(tmp_path / "run", f"deleted-{what.replace(' ', '-')}-{moment}", server.address)
    tracker, client = run.tracker(), MlflowClient(server.address)
    with closing(Relay(run.folder, tracker.apply, tracker.answers)) as relay:
        run.tell(moment)
        relay.deliver()
        DELETED[what](client, tracker)
        run.tell()
        assert not relay.deliver(everything=True)
        assert "deleted" in str(relay.missing())
    assert exit_code("track", str(run.folder)) == 0
    require_everything(server.address, run.run_id)
    assert by_name(server.address, EXPERIMENT)[run.run_id].info.run_id == tracker.parent, "no orphans"

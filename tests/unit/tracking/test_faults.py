"""MLflow that breaks while a run tells it: what arrives, when it is well again, and what is said meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.cli.app import main
from drift.ground.errors import ConfigError, DataError, ServiceError
from drift.tracking.limits import NUMBERS
from drift.tracking.resend import resend
from drift.tracking.runs.tracker import Tracker
from drift.tracking.store import check_server
from drift.tracking.telling.delivery import Relay
from drift.tracking.telling.journal import append
from tests.cluster_steps import Pods, Report, by_name, statuses
from tests.fault_proxy import Fault, FaultProxy
from tests.mlflow_server import ADMIN, impatient, mlflow_server, server_with_users

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
ARMS = ("sft", "drift")
POINTS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr("drift.ground.patience.FIRST_WAIT_SECONDS", 0.01)
    with FaultProxy(server) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.host)
        impatient(monkeypatch)
        yield proxy


def journal(folder: Path, run_id: str, address: str, status: str = "FINISHED") -> Path:
    """Of a run of two arms: 11 events."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "arm.json").write_text("{}")
    about = {"run_id": run_id, "name": run_id, "experiment": "faults", "mlflow_uri": address, "status": "finished"}
    (folder / "run.json").write_text(json.dumps(about))

    def tell(kind: str, step: str = "pipeline", arm: str = "", **content: object) -> None:
        key = "/".join(filter(None, [run_id, step if step != "pipeline" else "", arm]))
        append(folder, {"key": key, "step": step, "arm": arm, "event": kind, "time": time.time(), **content})

    tell("begun", params={"seed": "0"})
    for arm in ARMS:
        tell("started", "arm", arm, params={"arm.seed": "0"}, inputs=[])
        points = [["train/loss", 1.0 / (at + 1), 1000 + at, at] for at in range(POINTS)]
        tell("metrics", "arm", arm, metrics=points)
        tell("files", "arm", arm, paths=[str(folder / "arm.json")])
        tell("ended", "arm", arm, status="FINISHED", error=None)
    tell("files", paths=[str(folder / "config.yaml")])
    tell("closed", status=status)
    return folder


def told(folder: Path, run_id: str, address: str, seconds: float = 0.0) -> str:
    """What MLflow lacks after the run has told all it can."""
    tracker = Tracker.open(address, experiment="faults", run_id=run_id, name=run_id)
    relay = Relay(folder, tracker.apply, tracker.answers)
    relay.start()
    missing = relay.finish(seconds)
    tracker.note_missing(missing)
    return str(missing)


def require_everything(server: str, run_id: str) -> None:
    """All of the journal is there, nothing twice."""
    client, found = MlflowClient(server), by_name(server, "faults")
    mine = {key: run for key, run in found.items() if key.partition("/")[0] == run_id}
    assert {key: run.info.status for key, run in mine.items()} == {
        run_id: "FINISHED",
        **{f"{run_id}/arm/{arm}": "FINISHED" for arm in ARMS},
    }
    for arm in ARMS:
        run = mine[f"{run_id}/arm/{arm}"]
        assert run.data.params == {"arm.seed": "0"} and run.data.tags["drift.attempt"] == "1"
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(one.step, one.timestamp) for one in points] == [(at, 1000 + at) for at in range(POINTS)]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["arm.json"]
    parent = mine[run_id]
    assert parent.data.params == {"seed": "0"} and parent.data.tags["drift.tracking"] == "complete"
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["config.yaml"]


FAULTS = {
    "refused artifacts": (Fault("PUT .*artifacts", status=403), 3),
    "artifacts that break": (Fault("PUT .*artifacts", status=500), 3),
    "metrics that break": (Fault("POST .*(log-batch|runs/update)"), 11 - 3),
    "metrics that are refused": (Fault("POST .*log-batch", status=400), None),
    "everything but questions breaks": (Fault("POST .*runs/(log|update|create|set)|PUT"), 11),
    "token expired": (Fault(".", status=401), 11),
    "connections that break": (Fault(".", "drop"), 11),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_lacking_is_there_after_drift_track_and_nothing_twice(
    fault: str, proxy: FaultProxy, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = fault.replace(" ", "-")
    folder = journal(tmp_path / run_id, run_id, proxy.host)
    Tracker.open(proxy.host, experiment="faults", run_id=run_id, name=run_id)
    broken, events = FAULTS[fault]
    if events == 11:  # the run has begun when it comes to that
        tracker = Tracker.open(proxy.host, experiment="faults", run_id=run_id, name=run_id)
        proxy.faults = [broken]
        relay = Relay(folder, tracker.apply, tracker.answers)
        missing = str(relay.finish(0.0))
    else:
        proxy.faults = [broken]
        missing = told(folder, run_id, proxy.host)
    assert " of 11 events are missing (" in missing
    if events:
        assert missing.startswith(f"{events} of 11 ")
    proxy.faults = []
    main_code = exit_code("track", str(folder))
    assert (main_code, capsys.readouterr().out.split(": ", 1)[1].split(";")[1]) == (0, " complete\n")
    require_everything(server, run_id)
    assert exit_code("track", str(folder)) == 0, "again changes nothing"
    require_everything(server, run_id)


def exit_code(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_one_refused_artifact_keeps_nothing_else_back(proxy: FaultProxy, server: str, tmp_path: Path) -> None:
    folder = journal(tmp_path / "one", "one", proxy.host)
    proxy.faults = [Fault("PUT .*artifacts", status=403)]
    missing = told(folder, "one", proxy.host)
    assert missing.startswith("3 of 11 events are missing (files of one/arm/sft: ")
    found = by_name(server, "faults")
    assert {found[f"one/arm/{arm}"].info.status for arm in ARMS} == {"FINISHED"}
    assert found["one"].info.status == "FINISHED" and found["one"].data.tags["drift.tracking"] == missing
    assert exit_code("track", str(folder)) == 2, "still refused"


def test_a_server_that_is_back_before_the_end_has_everything(proxy: FaultProxy, server: str, tmp_path: Path) -> None:
    folder = journal(tmp_path / "back", "back", proxy.host)
    tracker = Tracker.open(proxy.host, experiment="faults", run_id="back", name="back")
    proxy.faults = [Fault(".", "drop")]
    with closing(Relay(folder, tracker.apply, tracker.answers)) as relay:
        assert not relay.deliver()
        assert len(proxy.broken) == 2, "one try, and one look whether anybody is there"
        proxy.faults = []
        assert relay.deliver()
        tracker.note_missing(relay.missing())
    require_everything(server, "back")


def test_metrics_that_hang_cost_one_wait_a_round(
    proxy: FaultProxy, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    folder = journal(tmp_path / "hang", "hang", proxy.host)
    tracker = Tracker.open(proxy.host, experiment="faults", run_id="hang", name="hang")
    proxy.faults = [Fault("POST .*log-batch", "hang", seconds=4.0)]
    with closing(Relay(folder, tracker.apply, tracker.answers)) as relay:
        assert not relay.deliver()
        assert len(proxy.broken) == 3, "begun, started and metrics, once each of five"
        proxy.faults = []
        assert relay.deliver(everything=True)
        tracker.note_missing(relay.missing())
    require_everything(server, "hang")


def test_a_step_on_a_cluster_keeps_what_mlflow_refuses_in_its_record_and_it_can_be_sent(
    proxy: FaultProxy, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "0")
    monkeypatch.setattr("drift.tracking.telling.delivery.FIRST_WAIT_SECONDS", 0.01)
    pods = Pods(tmp_path, monkeypatch, proxy.host)

    def work(_: object) -> Report:
        proxy.faults = [Fault("POST .*(log-batch|runs/update)")]
        return Report({"ingest/rows": 3.0})

    assert pods.step("pod1", "ingest", work) is None
    run = by_name(server)["pod1/ingest"]
    assert run.info.status == "RUNNING" and run.data.metrics == {}
    record = json.loads((tmp_path / "r").read_text())
    assert [event["event"] for event in record["untold"]["events"]] == ["metrics", "ended"]
    proxy.faults = []
    assert exit_code("track", str(tmp_path / "r")) == 0
    run = by_name(server)["pod1/ingest"]
    assert run.info.status == "FINISHED" and run.data.metrics == {"ingest/rows": 3.0}


def test_a_claim_keeps_the_journals_of_steps_whose_mlflow_was_away(
    proxy: FaultProxy, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "0")
    monkeypatch.setenv("DRIFT_SPOOL", str(tmp_path / "claim"))
    pods = Pods(tmp_path, monkeypatch, proxy.host)
    proxy.faults = [Fault(".", "drop")]
    assert pods.step("pod2", "ingest") is None
    assert pods.step("pod2", "arm", arm="sft") is None
    proxy.faults = []
    assert pods.step("pod2", "curate") is None
    left = sorted(str(path.parent.relative_to(tmp_path / "claim")) for path in tmp_path.rglob("events.jsonl"))
    assert left == ["pod2/arm/sft", "pod2/ingest"]
    assert [one.missing.events for one in resend(tmp_path / "claim" / "pod2")] == [0, 0]
    found = {key: status for key, status in statuses(server).items() if key.startswith("pod2/")}
    assert found == {"pod2/ingest": "FINISHED", "pod2/arm/sft": "FINISHED", "pod2/curate": "FINISHED"}


def test_what_cannot_be_sent_is_said_in_one_line(
    proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"no journal of a run \(events.jsonl\) in it; give the folder of a run"):
        resend(tmp_path)
    folder = journal(tmp_path / "other", "other", "http://mlflow.example")
    with pytest.raises(ConfigError, match=r"was told to http://mlflow.example, not to http://127.*; set it to that"):
        resend(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="does not answer"):
        resend(journal(tmp_path / "away", "away", "http://127.0.0.1:9"))


def test_a_slow_start_is_no_refusal_and_an_upload_takes_the_time_it_takes(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drift.tracking.runs.tracker.NUMBERS", type(NUMBERS)(1, 0))
    monkeypatch.setenv("DRIFT_MLFLOW_LIMITS", "")
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    with FaultProxy(server, [Fault("experiments/search", "delay", seconds=5.0)]) as proxy:
        check_server(proxy.host)
        proxy.faults = [Fault("PUT .*artifacts", "delay", seconds=3.0)]
        folder = journal(tmp_path / "slow", "slow", proxy.host)
        assert told(folder, "slow", proxy.host, seconds=60.0) == "complete"
        assert len(proxy.broken) == 4, "each file was sent once"
    require_everything(server, "slow")


def test_a_wrong_password_is_a_refusal_and_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server_with_users(tmp_path) as address:
        for name, value in ADMIN.items():
            monkeypatch.setenv(name, value)
        check_server(address)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:\d+ refuses \(.*401"):
            check_server(address)

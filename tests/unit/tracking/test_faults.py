"""MLflow that breaks while a run tells it: what arrives, when it is well again, and what is said meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError, DataError, ServiceError
from drift.tracking.limits import NUMBERS
from drift.tracking.models.registration import register
from drift.tracking.resend import resend
from drift.tracking.runs.tracker import Tracker
from drift.tracking.store import check_server
from drift.tracking.telling.delivery import Relay
from drift.tracking.telling.live import Live
from tests.cluster_steps import Pods, Report, by_name, statuses
from tests.fault_proxy import Fault, FaultProxy
from tests.mlflow_server import ADMIN, impatient, mlflow_server, server_with_users
from tests.told_runs import ARMS, EXPERIMENT, POINTS, ToldRun, exit_code, require_everything

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


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


def journal(folder: Path, run_id: str, address: str) -> Path:
    """The folder of a run that is over, and has told MLflow nothing yet."""
    ToldRun(folder, run_id, address).tell()
    return folder


def told(folder: Path, run_id: str, address: str, seconds: float = 0.0) -> str:
    """What MLflow lacks after the run has told all it can."""
    tracker = Tracker.open(address, experiment=EXPERIMENT, run_id=run_id, name=run_id)
    missing = Relay(folder, tracker.apply, tracker.answers).finish(seconds)
    tracker.note_missing(missing)
    return str(missing)


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
    Tracker.open(proxy.host, experiment=EXPERIMENT, run_id=run_id, name=run_id)
    broken, events = FAULTS[fault]
    if events == 11:  # the run has begun when it comes to that
        tracker = Tracker.open(proxy.host, experiment=EXPERIMENT, run_id=run_id, name=run_id)
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


def test_one_refused_artifact_keeps_nothing_else_back(proxy: FaultProxy, server: str, tmp_path: Path) -> None:
    folder = journal(tmp_path / "one", "one", proxy.host)
    proxy.faults = [Fault("PUT .*artifacts", status=403)]
    missing = told(folder, "one", proxy.host)
    assert missing.startswith("3 of 11 events are missing (files of one/arm/sft: ")
    found = by_name(server, EXPERIMENT)
    assert {found[f"one/arm/{arm}"].info.status for arm in ARMS} == {"FINISHED"}
    assert found["one"].info.status == "FINISHED" and found["one"].data.tags["drift.tracking"] == missing
    assert exit_code("track", str(folder)) == 2, "still refused"


def test_a_server_that_is_back_before_the_end_has_everything(proxy: FaultProxy, server: str, tmp_path: Path) -> None:
    folder = journal(tmp_path / "back", "back", proxy.host)
    tracker = Tracker.open(proxy.host, experiment=EXPERIMENT, run_id="back", name="back")
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
    tracker = Tracker.open(proxy.host, experiment=EXPERIMENT, run_id="hang", name="hang")
    proxy.faults = [Fault("POST .*log-batch", "hang", seconds=4.0)]
    with closing(Relay(folder, tracker.apply, tracker.answers)) as relay:
        assert not relay.deliver()
        assert len(proxy.broken) == 3, "begun, started and metrics, once each of five"
        proxy.faults = []
        assert relay.deliver(everything=True)
        tracker.note_missing(relay.missing())
    require_everything(server, "hang")


ALL = ["metrics", "metrics", "files", "metrics", "files", "ended"]
"""That the step below tells once it works: its curve in two batches, its log, its numbers, no files, its end."""
STEP_FAULTS = {
    "refused artifacts": (Fault("PUT .*artifacts", status=403), ["files"]),
    "artifacts that break": (Fault("PUT .*artifacts", status=500), ["files", "files"]),
    "metrics that break": (Fault("POST .*(log-batch|runs/update)"), ["metrics", "metrics", "metrics", "ended"]),
    "metrics that hang": (Fault("POST .*log-batch", "hang", seconds=2.5), ["metrics"] * 3),
    "token expired": (Fault(".", status=401), ALL),
    "connections that break": (Fault(".", "drop"), ALL),
    "nobody there at the start": (Fault(".", "drop"), ["started", *ALL]),
}


@pytest.mark.parametrize("kept", ["record", "claim"])
@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_what_a_step_on_a_cluster_could_not_tell_is_there_after_drift_track_and_nothing_twice(
    fault: str, kept: str, proxy: FaultProxy, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_PATIENCE_SECONDS", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    if kept == "claim":
        monkeypatch.setenv("DRIFT_SPOOL", str(tmp_path / "claim"))
    pods, run_id = Pods(tmp_path, monkeypatch, proxy.host), f"{kept}-{fault.replace(' ', '-')}"
    broken, events = STEP_FAULTS[fault]

    def work(_: object) -> Report:
        os.write(1, b"working\n")
        proxy.faults = [broken]
        live = Live(every=3600)
        for step in range(1, POINTS + 1):
            live.tell({"train/loss": 1.0 / step}, step, at=1000.0 + step)
        live.flush()
        return Report({"train/steps": POINTS})

    proxy.faults = [broken] if events[0] == "started" else []
    assert pods.step(run_id, "arm", work, arm="sft") is None, "a step never fails because of MLflow"
    untold = json.loads((tmp_path / "r").read_text())["untold"]["events"]
    assert [event["event"] for event in untold] == events
    proxy.faults = []
    where = tmp_path / "claim" / run_id if kept == "claim" else tmp_path / "r"
    for again in range(2 if kept == "claim" else 1):
        assert exit_code("track", str(where)) == 0, f"again ({again}) changes nothing"
        require_step(server, f"{run_id}/arm/sft")


def require_step(server: str, key: str) -> None:
    """All that the step of the test above has told, nothing twice."""
    client, run = MlflowClient(server), by_name(server)[key]
    assert run.info.status == "FINISHED" and run.data.tags["drift.attempt"] == "1"
    assert run.data.params == {"arm.model": "m"}
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.timestamp) for one in points] == [(at, 1000_000 + 1000 * at) for at in range(1, POINTS + 1)]
    assert len(client.get_metric_history(run.info.run_id, "train/steps")) == 1
    log = Path(client.download_artifacts(run.info.run_id, "step/log.txt"))
    assert log.read_text().startswith("working\n")


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


@pytest.mark.slow
def test_a_model_whose_upload_is_answered_after_half_a_minute_is_registered(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DRIFT_MLFLOW_LIMITS", "")
    model, gate = tmp_path / "model", tmp_path / "gate"
    for folder in (model, gate):
        folder.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"w" * 10_000_000)
    decision = {"passed": True, "winner": "drift", "model_sha256": content_sha256(model), "promotes": True}
    (gate / "gate.json").write_text(json.dumps(decision))
    with FaultProxy(server, [Fault("PUT .*model.safetensors", "delay", seconds=30.0)]) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.host)
        report = register(RegisterConfig(model="slow"), model=str(model), gate=gate)
        assert len(proxy.broken) == 1, "it was sent once"
    assert report.created and report.champion
    client = MlflowClient(server)
    assert client.get_model_version_by_alias("slow", "champion").version == "1"


def test_a_wrong_password_is_a_refusal_and_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server_with_users(tmp_path) as address:
        for name, value in ADMIN.items():
            monkeypatch.setenv(name, value)
        check_server(address)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:\d+ refuses \(.*401"):
            check_server(address)

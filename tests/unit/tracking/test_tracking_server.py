"""The same through a real MLflow server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256
from drift.tracking.models.registration import register
from drift.tracking.runs.tracker import Tracker
from drift.tracking.store import check_server
from tests.mlflow_server import mlflow_server
from tests.unit.tracking.test_registry import gate, model
from tests.unit.tracking.test_tracking import ended, event, started

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with mlflow_server(tmp_path) as address:
        yield address


def test_a_run_and_a_registration_through_a_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_server(server)
    tracker = Tracker.open(server, experiment="mini", run_id="r1", name="mini-1")
    (tmp_path / "arm.json").write_text("{}")
    inputs = [{"name": "data", "digest": "ab" * 32, "uri": "/data"}]
    for line in [
        event("started", params={"arm.seed": "0"}, inputs=inputs),
        event("metrics", metrics=[["train/loss", 1.0, 1, step] for step in range(1500)]),
        event("files", paths=[str(tmp_path / "arm.json")]),
        ended(),
        started(step="gate", arm=""),
    ]:
        tracker.apply(line)
    made = model(tmp_path / "model")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("DRIFT_MLFLOW_RUN_ID", tracker.parent)
    decision = gate(tmp_path / "gate", made)
    reports = [register(RegisterConfig(model="drift-vlm"), model=str(made), gate=decision) for _ in range(2)]
    tracker.finalize("KILLED")

    found = {run.info.run_name: run for run in tracker.client.search_runs([tracker.experiment_id])}
    assert {name: run.info.status for name, run in found.items()} == {
        "mini-1": "KILLED",
        "arm sft": "FINISHED",
        "gate": "KILLED",
    }
    assert len(tracker.client.get_metric_history(found["arm sft"].info.run_id, "train/loss")) == 1500
    assert [file.path for file in tracker.client.list_artifacts(found["arm sft"].info.run_id)] == ["arm.json"]
    assert [(report.version, report.created) for report in reports] == [(1, True), (1, False)]
    version = tracker.client.get_model_version_by_alias("drift-vlm", "champion")
    assert version.run_id == tracker.parent
    assert version.tags["drift.fingerprint"] == content_sha256(made)

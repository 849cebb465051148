"""What a report can say of its run: from the run's folder, from MLflow's record, or nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drift.ground.artifacts import write_json
from drift.tracking.facts import RunFacts, StepFact, _of_record, run_facts
from drift.tracking.runs.records import RunRecord, StepRecord
from drift.tracking.telling.journal import append, make_event

RUN, SERVER = "DRIFT_RUN_DIR", "http://tracking:5000/#/experiments/1/runs/2"


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any run and server."""
    for name in (RUN, "DRIFT_RUN_ID", "MLFLOW_TRACKING_URI", "DRIFT_KFP_UI"):
        monkeypatch.delenv(name, raising=False)


def folder(tmp_path: Path, mlflow: str) -> Path:
    run = tmp_path / "mini-1"
    run.mkdir()
    write_json(run / "run.json", {"started": "2026-01-01T00:00:00+00:00", "mlflow": mlflow})
    tags = {"mlflow.source.name": "drift run u=http://ada:secret@judge/", "drift.host": "node-7"}
    append(run, make_event("1", "pipeline", "", "begun", tags=tags))
    append(run, make_event("1/generate", "generate", "", "metrics", metrics=[["data/generate/cost", 3.5, 0, 0]]))
    append(run, make_event("1/generate", "generate", "", "ended", seconds=9.0, status="FAILED"))
    append(run, make_event("1/generate", "generate", "", "ended", seconds=12.0, status="FINISHED"))
    append(run, make_event("1/arm/sft", "arm", "sft", "cached", seconds=60.0))
    return run


def test_a_run_on_this_machine_is_known_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN, str(folder(tmp_path, SERVER)))
    steps = (StepFact("generate", "", 12.0, cost=3.5), StepFact("arm", "sft", 60.0, cached=True))
    assert run_facts() == RunFacts(
        "mini-1", "2026-01-01T00:00:00+00:00", "drift run u=http://judge/", "node-7", {"MLflow": SERVER}, steps
    )


def test_a_store_without_a_server_has_no_page_to_link_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN, str(folder(tmp_path, "")))
    facts = run_facts()
    assert facts is not None and facts.links == {}


def test_outside_of_a_run_nothing_is_known_and_a_broken_folder_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_facts() is None
    monkeypatch.setenv(RUN, str(tmp_path))
    assert run_facts() is None
    assert "the report does not say how the run was made" in caplog.text and "run.json" in caplog.text


def test_a_run_on_a_cluster_is_known_by_what_mlflow_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFT_KFP_UI", "http://kubeflow/")
    began = datetime(2026, 1, 1, tzinfo=UTC)
    told = RunRecord(
        run_id="2",
        status="RUNNING",
        url=SERVER,
        tags={"mlflow.source.name": "Kubeflow Pipelines"},
        steps=(
            StepRecord("arm", "sft", "FINISHED", began, began + timedelta(minutes=2), "", False),
            StepRecord("report", "", "RUNNING", began, None, "", False),
        ),
    )
    facts = _of_record("abc", told)
    assert facts.links == {"MLflow": SERVER, "Kubeflow": "http://kubeflow/#/runs/details/abc"}
    assert (facts.started, facts.command) == ("2026-01-01T00:00:00+00:00", "Kubeflow Pipelines")
    assert facts.steps == (StepFact("arm", "sft", 120.0),)

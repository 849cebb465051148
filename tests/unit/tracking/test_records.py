"""What a run on a cluster told MLflow, read from elsewhere, in a real store."""

from pathlib import Path

import pytest

from drift.ground.errors import ServiceError
from drift.tracking.runs.records import Records, latest, read_run
from drift.tracking.runs.tracker import Tracker
from drift.tracking.telling.journal import step_key
from tests.mlflow_store import fresh_store


def tell(tracker: Tracker, step: str, arm: str, event: str, **content: object) -> None:
    key = step_key(tracker.run_id, step, arm)
    tracker.apply({"key": key, "step": step, "arm": arm, "event": event, "time": 1.0, **content})


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    store = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return Tracker.open(store, experiment="drift", run_id="r1", name="r1")


def test_a_run_is_read_with_its_tags_and_every_step_and_arm(tracker: Tracker) -> None:
    tell(tracker, "ingest", "", "started", params={}, inputs=[])
    tell(tracker, "ingest", "", "ended", status="FINISHED", error=None)
    tell(tracker, "arm", "sft", "started", params={}, inputs=[])
    tell(tracker, "arm", "drift", "started", params={}, inputs=[])
    tell(tracker, "arm", "drift", "ended", status="FAILED", error="train.data: no rows")
    tell(tracker, "curate", "", "cached", upstream="r0/curate", metrics=[])
    tracker.client.set_tag(tracker.parent, "drift.gate", "passed")
    record = read_run("r1")
    assert record and record.tags["drift.gate"] == "passed"
    assert record.url.endswith(f"(run {tracker.parent})")
    steps = latest(record.steps)
    assert {key: (one.status, one.error, one.cached) for key, one in steps.items()} == {
        ("ingest", ""): ("FINISHED", "", False),
        ("arm", "sft"): ("RUNNING", "", False),
        ("arm", "drift"): ("FAILED", "train.data: no rows", False),
        ("curate", ""): ("FINISHED", "", True),
    }
    assert steps[("arm", "sft")].end is None
    ended = steps[("ingest", "")]
    assert ended.start and ended.end and ended.start <= ended.end


def test_a_run_that_told_nothing_is_none_and_so_is_any_without_an_address(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_run("r2") is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Records.open() is None
    assert read_run("r1") is None


def test_steps_beyond_the_first_page_are_read_too(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drift.tracking.runs.records.PAGE", 2)
    below = {"mlflow.parentRunId": tracker.parent, "kfp.pipeline_run_id": "r1", "drift.step": "arm"}
    for number in range(5):
        tracker.client.create_run(tracker.experiment_id, tags=below | {"drift.arm": str(number)})
    record = read_run("r1")
    assert record and len(record.steps) == 5


def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    records = Records.open()
    assert records
    with pytest.raises(ServiceError, match=r"MLflow at http://127.0.0.1:9 does not answer") as error:
        records.read("r1")
    assert "secret" not in str(error.value)

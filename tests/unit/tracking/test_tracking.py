"""MLflow runs of a pipeline run: found again, never made twice, never left running."""

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from drift.ground.errors import ConfigError, ServiceError
from drift.tracking import store
from drift.tracking.cluster import Pod, tracker_from_environment
from drift.tracking.runs.tracker import Tracker
from drift.tracking.store import check_server, redact, store_identity, store_uri
from tests.forked import begin
from tests.mlflow_store import fresh_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return fresh_store(tmp_path)


@pytest.fixture
def tracker(uri: str) -> Tracker:
    return Tracker.open(uri, experiment="mini", run_id="r1", name="mini-1")


def event(kind: str, step: str = "arm", arm: str = "sft", *, at: float = 1.0, **content) -> dict:
    return {"key": f"r1/{step}/{arm}".rstrip("/"), "step": step, "arm": arm, "event": kind, "time": at, **content}


def started(at: float = 1.0, step: str = "arm", arm: str = "sft", **params: str) -> dict:
    return event("started", step, arm, at=at, params=params, inputs=[])


def ended(status: str = "FINISHED", error: str | None = None, **where: str) -> dict:
    return event("ended", **where, status=status, error=error)


def runs(tracker: Tracker) -> dict[str, Run]:
    found = tracker.client.search_runs([tracker.experiment_id], max_results=100)
    assert len({run.data.tags[store.KEY] for run in found}) == len(found), "two runs have one key"
    return {run.info.run_name: run for run in found}


def test_a_pipeline_run_is_a_parent_with_a_child_per_step_and_arm(tracker: Tracker, tmp_path: Path):
    (tmp_path / "arm.json").write_text("{}")
    digest = "0123456789abcdef" * 4
    for line in [
        event("started", params={"arm.train.seed": "0"}, inputs=[{"name": "data", "digest": digest, "uri": "/data"}]),
        event("metrics", metrics=[["train/loss", 2.0, 1, 1], ["train/loss", 1.0, 2, 2], ["cos(g,Δ)", 0.5, 2, 0]]),
        event("files", paths=[str(tmp_path / "arm.json"), str(tmp_path / "gone.json")]),
        ended(),
        started(step="gate", arm=""),
        event("metrics", "gate", "", metrics=[["gate/passed", 1.0, 1, 0]]),
        ended(step="gate", arm=""),
    ]:
        tracker.apply(line)
    tracker.finalize("FINISHED")

    found = runs(tracker)
    assert set(found) == {"mini-1", "arm sft", "gate"}
    parent, child = found["mini-1"], found["arm sft"]
    assert parent.info.status == child.info.status == found["gate"].info.status == "FINISHED"
    assert parent.data.metrics == {"gate/passed": 1.0}, "the table of runs shows parents only"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["kfp.pipeline_run_id"] == "r1"
    assert child.data.params == {"arm.train.seed": "0"}
    assert child.data.metrics == {"train/loss": 1.0, "cos_g_Δ_": 0.5}
    assert [point.value for point in tracker.client.get_metric_history(child.info.run_id, "train/loss")] == [2.0, 1.0]
    assert [(one.dataset.name, one.dataset.digest) for one in child.inputs.dataset_inputs] == [("data", digest[:36])]
    assert [file.path for file in tracker.client.list_artifacts(child.info.run_id)] == ["arm.json"]
    assert (tmp_path / "mlartifacts").is_dir(), "artifacts lie beside the embedded store"


def test_a_retry_takes_up_the_same_run_and_clears_its_error(tracker: Tracker):
    tracker.apply(started(at=1.0))
    tracker.apply(ended("FAILED", "out of memory"))
    child = runs(tracker)["arm sft"]
    assert (child.info.status, child.data.tags["drift.error"]) == ("FAILED", "out of memory")

    again = Tracker.open(tracker.uri, experiment="mini", run_id="r1", name="mini-1")
    again.apply(started(at=2.0))
    assert runs(again)["arm sft"].info.status == "RUNNING"
    again.apply(ended())
    child = runs(again)["arm sft"]
    assert child.info.status == "FINISHED"
    assert child.data.tags["drift.attempt"] == "2" and "drift.error" not in child.data.tags
    assert len(runs(again)) == 2


def causes(tracker: Tracker) -> dict[str, str]:
    return {name: text for name, text in runs(tracker)["arm sft"].data.tags.items() if name.startswith("drift.error")}


def test_the_first_cause_stays_and_others_are_numbered_until_the_step_succeeds(tracker: Tracker):
    for at, error in enumerate(["pod lost its disk", "no space", "no space", "port in use", "pod lost its disk"], 1):
        tracker.apply(started(at=at))
        tracker.apply(ended("FAILED", error))
    assert causes(tracker) == {
        "drift.error": "pod lost its disk",
        "drift.error.2": "no space",
        "drift.error.3": "port in use",
    }
    tracker.apply(started(at=9.0))
    tracker.apply(ended())
    assert causes(tracker) == {}


def test_an_older_attempt_that_fails_says_nothing_about_the_newest(tracker: Tracker):
    first, second = started(at=1.0), started(at=2.0)
    lost = ended("FAILED", "connection lost") | {"started": 1.0}
    for line in (first, second, lost):
        tracker.apply(line)
    assert runs(tracker)["arm sft"].info.status == "RUNNING", "its twin is at work"
    assert causes(tracker) == {"drift.error": "connection lost"}
    tracker.apply(ended() | {"started": 2.0})
    tracker.apply(lost)
    assert runs(tracker)["arm sft"].info.status == "FINISHED"
    assert causes(tracker) == {}
    tracker.apply(first)
    assert runs(tracker)["arm sft"].data.tags["drift.attempt"] == "2", "an old line told again is no new attempt"
    assert runs(tracker)["arm sft"].info.status == "FINISHED"


def test_a_cause_longer_than_a_tag_is_cut_and_the_step_fails_all_the_same(tracker: Tracker):
    tracker.apply(started())
    tracker.apply(ended("FAILED", "x" * 10_000))
    tracker.apply(ended("FAILED", "x" * 10_000))
    assert runs(tracker)["arm sft"].info.status == "FAILED"
    assert causes(tracker) == {"drift.error": "x" * 5000}


def test_what_a_step_says_of_the_whole_run_and_of_its_repeats_is_kept(tracker: Tracker):
    tracker.apply(event("tags", "gate", "", tags={"drift.gate": "refused"}))
    tracker.apply(event("repeated", count=2, error="hub: 503"))
    assert runs(tracker)["mini-1"].data.tags["drift.gate"] == "refused"
    assert runs(tracker)["arm sft"].data.tags.items() >= {"drift.repeats": "2", "drift.repeated": "hub: 503"}.items()


def test_applying_a_journal_twice_changes_nothing(tracker: Tracker):
    journal = [started(seed="0"), event("metrics", metrics=[["train/loss", 1.0, 5, 1]]), ended()]
    for line in journal + journal:
        tracker.apply(line)
    child = runs(tracker)["arm sft"]
    assert child.data.tags["drift.attempt"] == "1" and child.info.status == "FINISHED"
    assert len(tracker.client.get_metric_history(child.info.run_id, "train/loss")) == 1


def test_steps_that_never_ended_are_killed_when_the_run_is_over(tracker: Tracker):
    tracker.apply(started())
    tracker.apply(started(step="gate", arm=""))
    tracker.apply(ended(step="gate", arm=""))
    tracker.finalize("KILLED")
    assert {name: run.info.status for name, run in runs(tracker).items()} == {
        "mini-1": "KILLED",
        "arm sft": "KILLED",
        "gate": "FINISHED",
    }


def test_a_continued_run_runs_again(tracker: Tracker, tmp_path: Path):
    (tmp_path / "config.yaml").write_text("name: mini")
    tracker.finalize("KILLED")
    again = Tracker.open(tracker.uri, experiment="mini", run_id="r1", name="mini-1")
    again.apply(event("begun", "pipeline", "", at=time.time(), params={"seed": "0"}))
    again.apply(event("files", "pipeline", "", paths=[str(tmp_path / "config.yaml")]))
    assert again.parent == tracker.parent
    assert runs(again)["mini-1"].info.status == "RUNNING"


def test_a_cached_step_links_to_the_run_that_did_the_work(tracker: Tracker):
    tracker.apply(started())
    tracker.apply(ended())
    did = runs(tracker)["arm sft"].info.run_id
    later = Tracker.open(tracker.uri, experiment="mini", run_id="r2", name="mini-2")
    cached = event("cached", upstream="r1/arm/sft", metrics=[["train/loss", 1.0, 5, 0]])
    later.apply(cached)
    later.apply(cached)
    found = later.client.search_runs([later.experiment_id], f"tags.`{store.KEY}` = 'r2/arm/sft'")
    assert len(found) == 1
    assert found[0].info.status == "FINISHED"
    assert found[0].data.tags["drift.cached"] == "true"
    assert found[0].data.tags["drift.upstream.arm"] == did
    assert found[0].data.metrics == {"train/loss": 1.0}


def test_parameters_that_changed_on_a_retry_are_named_and_the_first_stay(tracker: Tracker):
    tracker.apply(started(at=1.0, **{"arm.lr": "1", "arm.seed": "0"}))
    tracker.apply(started(at=2.0, **{"arm.lr": "2", "arm.seed": "0", "arm.new": "3"}))
    child = runs(tracker)["arm sft"]
    assert child.data.params == {"arm.lr": "1", "arm.seed": "0", "arm.new": "3"}
    assert child.data.tags["drift.params_changed"] == "arm.lr"


def test_no_password_of_an_address_reaches_mlflow(tracker: Tracker):
    address = "https://user:hunter2@teacher.example/v1"
    tracker.apply(started(**{"generate.teacher.base_url": address}))
    tracker.apply(ended("FAILED", f"{address}: 503"))
    child = runs(tracker)["arm sft"]
    assert child.data.params["generate.teacher.base_url"] == "https://teacher.example/v1"
    assert child.data.tags["drift.error"] == "https://teacher.example/v1: 503"
    assert redact("postgresql://drift:pw@db/x and http://plain") == "postgresql://db/x and http://plain"


def test_attached_to_a_run_of_kubeflow_nothing_is_made_or_closed(tracker: Tracker, monkeypatch: pytest.MonkeyPatch):
    theirs = tracker.client.create_run(tracker.experiment_id, run_name="kubeflow's task").info.run_id
    before = len(runs_of(tracker))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs)
    attached = tracker_from_environment()
    assert attached is not None
    for line in [started(seed="0"), event("metrics", metrics=[["gate/passed", 1.0, 1, 0]]), ended("FAILED", "no")]:
        attached.apply(line)
    attached.finalize("FAILED")
    run = tracker.client.get_run(theirs)
    assert len(runs_of(tracker)) == before
    assert run.info.status == "RUNNING", "whoever made the run closes it"
    assert run.data.params == {"seed": "0"} and run.data.metrics == {"gate/passed": 1.0}
    assert run.data.tags["drift.error"] == "no"


def runs_of(tracker: Tracker) -> list[Run]:
    return list(tracker.client.search_runs([tracker.experiment_id]))


def test_without_an_address_a_step_is_not_tracked(monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracker_from_environment() is None
    assert "MLFLOW_TRACKING_URI is not set" in caplog.text


def test_tracking_that_breaks_in_a_step_only_warns(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("DRIFT_MLFLOW_RUN_ID", "")
    monkeypatch.setenv("DRIFT_RUN_ID", "r1")
    monkeypatch.setenv("DRIFT_EXPERIMENT", "mini")
    pod = Pod("r1/arm/sft")
    pod.tell(started())
    pod.tell(event("metrics", metrics=[["x" * 300, 1.0, 1, 0]]))
    pod.tell(ended())
    assert "MLflow does not take 'metrics' of r1/arm/sft" in caplog.text
    assert runs(tracker)["arm sft"].info.status == "FINISHED", "one refused event keeps no other back"
    assert [one["event"] for one in pod.untold()["events"]] == ["metrics"]


def test_what_comes_late_changes_nothing_of_what_came_since(tracker: Tracker):
    tracker.apply(ended())
    tracker.apply(started(at=0.5, seed="0"))
    child = runs(tracker)["arm sft"]
    assert (child.info.status, child.data.params, child.info.start_time) == ("FINISHED", {"seed": "0"}, 1000)
    closed = {"key": "r1", "step": "pipeline", "arm": "", "event": "closed", "status": "FAILED", "time": 5.0}
    tracker.apply(closed | {"status": "FINISHED", "time": 9.0})
    tracker.apply(closed)
    tracker.apply(closed | {"event": "begun", "params": {"a": "1"}, "time": 4.0})
    parent = runs(tracker)["mini-1"]
    assert (parent.info.status, parent.info.end_time, parent.data.params) == ("FINISHED", 9000, {"a": "1"})


def test_a_parameter_longer_than_mlflow_keeps_is_cut_and_no_change_later(tracker: Tracker):
    tracker.apply(started(at=1.0, prompt="x" * 7000))
    tracker.apply(started(at=2.0, prompt="x" * 7000))
    child = runs(tracker)["arm sft"]
    assert child.data.params == {"prompt": "x" * 6000} and child.data.tags["drift.params_cut"] == "prompt"
    assert "drift.params_changed" not in child.data.tags


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_folder_that_the_embedded_store_would_misread_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"^runs: .*; choose another folder, or set MLFLOW_TRACKING_URI$"):
        store_uri(tmp_path / name)
    assert store_uri(tmp_path / "100% ä#;&").endswith("/100% ä#;&/mlflow.db")


def test_a_deleted_experiment_comes_back(tracker: Tracker):
    tracker.client.delete_experiment(tracker.experiment_id)
    again = Tracker.open(tracker.uri, experiment="mini", run_id="r9", name="mini-9")
    assert again.experiment_id == tracker.experiment_id


def test_a_new_database_at_the_same_address_is_another_store(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = (fresh_store(tmp_path / name) for name in ("a", "b"))
    first = store_identity(one, "mini")
    assert store_identity(one, "mini") == first
    time.sleep(0.01)
    assert store_identity(other, "mini").partition("@")[2] != first.partition("@")[2]


def test_the_store_is_in_the_folder_of_runs_unless_an_address_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert store_uri(tmp_path) == "http://mlflow.example"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "file:///tmp/mlruns", "nonsense://x"])
def test_a_server_that_does_not_answer_is_an_error_within_seconds(address: str):
    began = time.monotonic()
    with pytest.raises(ServiceError, match="MLFLOW_TRACKING_URI: ") as caught:
        check_server(address)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


def say_parent(uri: str) -> None:
    print(Tracker.open(uri, experiment="mini", run_id="r1", name="mini-1").parent)


def test_processes_that_open_a_fresh_store_at_once_agree_on_one_parent(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    said = [tmp_path / "one", tmp_path / "other"]
    both = [begin(say_parent, uri, out=out) for out in said]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    parents = [out.read_text().strip() for out in said]
    assert parents[0] == parents[1] != ""
    client = MlflowClient(uri)
    assert len(client.search_runs([client.get_experiment_by_name("mini").experiment_id])) == 1

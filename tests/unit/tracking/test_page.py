"""What is in MLflow after a run: its page, what its steps wrote, and what a cached step had to show."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from drift.ground.artifacts import content_sha256
from drift.tracking.runs import fields, origin, outputs, page, tables
from drift.tracking.runs.carried import carried, journal_of
from drift.tracking.runs.tracker import Tracker
from drift.tracking.telling.journal import append, make_event
from tests.mlflow_store import fresh_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker.open(fresh_store(tmp_path), experiment="mini", run_id="r1", name="mini-1")


def event(kind: str, step: str = "arm", arm: str = "sft", run: str = "r1", **content) -> dict:
    return make_event("/".join(filter(None, [run, step, arm])), step, arm, kind, **content)


def started(step: str = "arm", arm: str = "sft", run: str = "r1", **more) -> dict:
    return event("started", step, arm, run, params={"arm.train.seed": "0"}, inputs=[], **more)


def parent(tracker: Tracker) -> Run:
    return tracker.client.get_run(tracker.parent)


def description(tracker: Tracker) -> str:
    return str(parent(tracker).data.tags[page.DESCRIPTION])


def artifacts(client: MlflowClient, run: str, at: str | None = None) -> set[str]:
    found: set[str] = set()
    for one in client.list_artifacts(run, at):
        found |= artifacts(client, run, one.path) if one.is_dir else {one.path}
    return found


def text(client: MlflowClient, run: str, path: str) -> str:
    return Path(client.download_artifacts(run, path)).read_text()


def test_the_page_says_the_verdict_first_whoever_tells_first_and_links_what_the_run_gave(tracker: Tracker):
    tracker.apply(event("page", "report", "", parts={"results": "| sft | 1 |"}))
    tracker.apply(event("page", "gate", "", parts={"verdict": "**Gate: sft passed.**"}))
    tracker.apply(event("tags", "gate", "", tags={"drift.gate": "passed"}))
    tracker.apply(event("tags", "register", "", tags={"drift.registered": "models:/my model/3"}))
    said = description(tracker)
    assert said.startswith("**Gate: sft passed.**\n\n| sft | 1 |\n\n[report](#/experiments/")
    assert f"/runs/{tracker.parent}/artifacts/report.html)" in said
    assert "[my model version 3](#/models/my%20model/versions/3)" in said


def test_the_page_names_a_failed_step_until_that_step_has_finished(tracker: Tracker):
    for line in (started(), event("ended", status="FAILED", error="out of memory")):
        tracker.apply(line)
    assert description(tracker).startswith("**arm sft failed:** out of memory")
    for line in (started(arm="drift"), event("ended", arm="drift", status="FINISHED", error=None)):
        tracker.apply(line)
    assert "arm sft failed" in description(tracker), "another step has finished"
    for line in (started(), event("ended", status="FINISHED", error=None)):
        tracker.apply(line)
    assert "failed" not in description(tracker)


def test_a_description_longer_than_a_tag_ends_with_a_whole_line(tracker: Tracker):
    tracker.apply(event("page", "gate", "", parts={"verdict": "- a reason\n" * 450, "results": "| row |\n" * 90}))
    said = description(tracker)
    assert len(said) <= fields.TAG_CHARACTERS and said.endswith("\n\n… (see gate.md)")
    assert set(said.splitlines()) == {"- a reason", "| row |", "", "… (see gate.md)"}


def test_files_about_the_whole_run_are_on_its_page_too(tracker: Tracker, tmp_path: Path):
    for step, name in (("gate", "gate.md"), ("report", "report.html"), ("curate", "funnel.json")):
        (tmp_path / name).write_text("[]")
        tracker.apply(event("files", step, "", paths=[str(tmp_path / name)]))
    log = tmp_path / "log.txt"
    log.write_text("said")
    tracker.apply(event("files", "gate", "", paths=[str(log)], at="step"))
    tracker.apply(
        event("begun", "pipeline", "", params={"seed": "0"}, tags={"mlflow.user": "ada"}, texts={"p.txt": "x"})
    )
    assert artifacts(tracker.client, tracker.parent) == {"gate.md", "report.html", "p.txt"}
    assert artifacts(tracker.client, tracker.child("gate", "")) == {"gate.md", "step/log.txt"}
    assert parent(tracker).data.params == {"seed": "0"} and parent(tracker).data.tags["mlflow.user"] == "ada"


def test_the_page_leads_back_to_the_folder_and_is_there_from_the_beginning(tracker: Tracker):
    tags = {"drift.folder": "/home/ada/runs/mini-1", "drift.host": "gpu-7"}
    tracker.apply(event("begun", "pipeline", "", params={}, tags=tags, texts={}))
    said = description(tracker)
    assert said.startswith("[steps](#/experiments/") and said.endswith("\n\n`/home/ada/runs/mini-1` on gpu-7")


def test_on_a_cluster_the_steps_parameters_make_up_the_runs(tracker: Tracker):
    tracker.apply(started(pod="pod-1"))
    tracker.apply(started(arm="drift", pod="pod-2"))
    tracker.apply(started("inputs", "", pod="pod-3"))
    assert parent(tracker).data.params == {"arms.sft.train.seed": "0", "arms.drift.train.seed": "0"}


def test_the_training_set_is_the_runs_dataset_with_its_columns_rows_and_whole_digest(tracker: Tracker, tmp_path: Path):
    folder = tmp_path / "training_set"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["a", "b"], "n_tokens": [1, 2]}), folder / "train.parquet")
    digest = content_sha256(folder)
    tracker.apply(started() | {"inputs": [{"name": "training_set", "digest": digest, "uri": str(folder)}]})
    (known,) = parent(tracker).inputs.dataset_inputs
    assert json.loads(known.dataset.profile) == {"sha256": digest, "num_rows": 2}
    assert json.loads(known.dataset.source) == {"uri": str(folder)}
    assert json.loads(known.dataset.schema)["mlflow_colspec"] == [
        {"name": "id", "type": "string"}, {"name": "n_tokens", "type": "long"},
    ]  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An output with weights, rows and a small file; and one that hides."""
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "known.json").write_text("{}")
    (folder / ".hidden").write_text("")
    images = [{"bytes": b"png", "path": None}]
    pq.write_table(pa.table({"answer": ["x" * 3000], "images": [images], "tags": [["a", "é"]]}), folder / "s.parquet")
    return folder


def published(tracker: Tracker, folder: Path, upload: str) -> set[str]:
    where = {"model": {"path": str(folder), "uri": "s3://bucket/out/"}}
    line = event("outputs", folders=where, known=[str(folder / "known.json")], upload=upload)
    tracker.apply(line)
    tracker.apply(line)
    return artifacts(tracker.client, tracker.child("arm", "sft"))


@pytest.mark.parametrize(
    ("upload", "there", "referred"),
    [
        ("winner", {"model/s.parquet", "tables/model/s.json"}, {"deep/model.safetensors"}),
        ("all", {"model/s.parquet", "tables/model/s.json", "model/deep/model.safetensors"}, set()),
        ("none", set(), {"deep/model.safetensors", "s.parquet"}),
    ],
)
def test_what_a_step_wrote_is_uploaded_or_referred_to_by_the_setting(tracker, model: Path, upload, there, referred):
    found = published(tracker, model, upload)
    references = {"references/model.json"} if referred else set()
    assert found == {"model/config.json"} | there | references
    if referred:
        told = json.loads(text(tracker.client, tracker.child("arm", "sft"), "references/model.json"))["files"]
        assert {one["file"] for one in told} == referred
        weights = next(one for one in told if one["file"] == "deep/model.safetensors")
        assert weights["uri"] == "s3://bucket/out/deep/model.safetensors" and weights["bytes"] == 7
        assert weights["sha256"] == content_sha256(model / "deep" / "model.safetensors")


def test_whole_answers_are_rows_of_data_whatever_they_are_written_as(tmp_path: Path):
    page = tmp_path / "MMStar.answers.html"
    page.write_text("<p>B</p>")
    assert outputs.stays(page, "none") and not outputs.stays(page, "winner")


def test_a_single_large_file_is_referred_to_unless_all_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outputs, "LARGE_BYTES", 1)
    assert outputs.stays(model / "config.json", "winner") and not outputs.stays(model / "config.json", "all")


def test_a_table_is_shown_by_a_bounded_sample_without_images_once_though_told_twice(tracker, model: Path):
    published(tracker, model, "winner")
    run = tracker.client.get_run(tracker.child("arm", "sft"))
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/model/s.json", "type": "table"}]
    table = json.loads(text(tracker.client, run.info.run_id, "tables/model/s.json"))
    assert table == {"columns": ["answer", "tags"], "data": [["x" * 2000 + "…", '["a", "é"]']]}


def test_of_many_rows_the_first_hundred_are_the_sample(tmp_path: Path):
    lines = "".join(json.dumps({"id": number}) + "\n" for number in range(300))
    (tmp_path / "part-00000-00000.jsonl").write_text(lines + '{"id": torn')
    sample = tables.sample(tmp_path / "part-00000-00000.jsonl")
    assert sample == {"columns": ["id"], "data": [[number] for number in range(100)]}
    (tmp_path / "funnel.json").write_text("[]")
    assert tables.sample(tmp_path / "funnel.json") is None


def test_a_step_cached_from_another_experiment_brings_its_numbers_files_and_curves(tracker: Tracker, tmp_path: Path):
    old, file = tmp_path / "old", tmp_path / "arm.json"
    (old / "tasks" / "arm").mkdir(parents=True)
    file.write_text("{}")
    curve = [["train/loss", 2.0, 1000, 1], ["train/loss", 1.0, 2000, 2], ["arm/seconds", 9.0, 3000, 0]]
    for line in [
        started(run="r0"),
        event("metrics", run="r0", metrics=[["train/loss", 99.0, 1, 1]]),
        event("ended", run="r0", status="FAILED", error="an attempt that is past"),
        started(run="r0"),
        event("metrics", run="r0", metrics=curve),
        event("files", run="r0", paths=[str(file)]),
        event("ended", run="r0", status="FINISHED", error=None),
        started(arm="drift", run="r0"),
    ]:
        append(old, line)
    assert journal_of(old / "tasks" / "arm" / "metrics") == str(old)
    cached = event("cached", upstream="r0/arm/sft", journal=str(old), seconds=9.0, metrics=[["arm/seconds", 9.0, 9, 0]])
    tracker.apply(cached)
    tracker.apply(cached)
    run = tracker.client.get_run(tracker.child("arm", "sft"))
    assert (run.info.status, run.data.tags["drift.cached"]) == ("FINISHED", "true")
    assert run.data.tags["drift.upstream.arm"] == "r0/arm/sft"
    assert run.data.params == {"arm.train.seed": "0"}
    points = tracker.client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.value, point.timestamp) for point in points] == [(2.0, 1000), (1.0, 2000)]
    assert len(tracker.client.get_metric_history(run.info.run_id, "arm/seconds")) == 1
    assert artifacts(tracker.client, run.info.run_id) == {"arm.json"}


def test_a_step_cached_from_a_run_in_the_same_experiment_is_a_link_alone(tracker: Tracker, tmp_path: Path):
    read = [{"name": name, "digest": "abc", "uri": "s3://there"} for name in ("training_set", "delta")]
    append(tmp_path, started(run="r0") | {"inputs": read})
    before = Tracker.open(tracker.uri, experiment="mini", run_id="r0", name="mini-0")
    did = before.child("arm", "sft")
    tracker.apply(event("cached", upstream="r0/arm/sft", journal=str(tmp_path), metrics=[["arm/seconds", 9.0, 9, 0]]))
    run = tracker.client.get_run(tracker.child("arm", "sft"))
    assert run.data.tags["drift.upstream.arm"] == did
    assert (run.data.metrics, run.data.params) == ({"arm/seconds": 9.0}, {})
    known = [one.dataset.name for one in parent(tracker).inputs.dataset_inputs]
    assert known == ["training_set"], "the page says it of every run"


def test_of_what_a_cached_step_brings_the_rows_stay_where_they_are_if_this_run_says_so(
    tracker, model: Path, tmp_path: Path
):
    where = {"model": {"path": str(model), "uri": str(model)}}
    append(tmp_path, started(run="r0"))
    append(tmp_path, event("outputs", run="r0", folders=where, known=[], upload="all"))
    tracker.apply(event("cached", upstream="r0/arm/sft", journal=str(tmp_path), metrics=[], upload="none"))
    found = artifacts(tracker.client, tracker.child("arm", "sft"))
    assert found == {"model/config.json", "model/known.json", "references/model.json"}


def test_nothing_is_carried_from_a_run_whose_journal_is_gone(tmp_path: Path):
    assert journal_of(tmp_path / "metrics") == ""
    assert list(carried("", "r0/arm/sft", event("cached"))) == []
    assert list(carried(str(tmp_path), "r0/arm/sft", event("cached"))) == []


def test_a_run_says_who_made_it_where_with_which_commit_and_packages(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DRIFT_IMAGE", "drift@sha256:1")
    monkeypatch.setenv("DRIFT_CODE_VERSION", "abc-dirty")
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/drift", "run", "-c", "my config.yaml"])
    origin.commit.cache_clear()
    told = origin.origin()
    origin.commit.cache_clear()
    assert told["mlflow.user"] == "ada" and told["mlflow.source.name"] == "drift run -c 'my config.yaml'"
    assert told["mlflow.source.git.commit"] == "abc" and told["drift.git_dirty"] == "true"
    assert told["drift.image"] == "drift@sha256:1" and told["drift.host"]
    assert "\nmlflow==" in origin.packages()


def test_the_commit_is_the_checkouts_and_unknown_where_the_code_only_lies_in_one(tmp_path: Path, monkeypatch):
    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *settings, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.delenv("DRIFT_CODE_VERSION", raising=False)
    monkeypatch.setattr(origin, "ROOT", tmp_path / "drift")
    (tmp_path / "drift").mkdir()
    (tmp_path / "drift" / "__init__.py").write_text("")
    known = []
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "m"], None):
        if step is None:
            (tmp_path / "drift" / "__init__.py").write_text("x = 1\n")
        else:
            git(*step)
        origin.commit.cache_clear()
        known.append(origin.code_version())
    origin.commit.cache_clear()
    head = git("rev-parse", "HEAD")
    assert known == ["", "", head, f"{head}-dirty"]

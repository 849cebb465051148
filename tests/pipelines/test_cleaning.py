"""Cleaning: what it says is freed, and what a champion, an unfinished run or a newer run's cache needs is not."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.ground.errors import ConfigError, PipelineError, ServiceError
from pipelines.local.clean import clean
from pipelines.local.folders import RunFolder, only_one
from pipelines.local.past import find_run, size
from tests.mlflow_store import fresh_store
from tests.run_folders import ARMS, past_run, still_cached, task_folder
from tests.small_disk import fill, small_disk

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fresh_store(tmp_path)
    return tmp_path


def at(hour: int) -> str:
    return f"2026-01-01T{hour:02d}:00:00+00:00"


def has_weights(run: RunFolder, step: str, arm: str = "") -> bool:
    return any(task_folder(run.path, step, arm).glob("*/weights"))


def registered(runs: Path, run: RunFolder, arm: str, alias: str | None, *, model: str = "drift-mini") -> None:
    """A version whose files MLflow has a copy of; it came from the arm of the run."""
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    source = str(task_folder(run.path, "arm", arm) / "model")
    version = client.create_model_version(
        model, "mlflow-artifacts:/m-1" if alias else source, tags={"drift.source_uri": source}
    )
    if alias:
        client.set_registered_model_alias(model, alias, version.version)


def test_older_runs_lose_models_and_data_and_keep_verdict_scores_and_logs(runs: Path):
    old, new = (past_run(runs, started=at(hour)) for hour in (1, 2))
    before = size(old.path)
    (kept, freed) = clean(runs, 1)
    assert (kept.run, kept.freed_bytes) == (new.path.name, 0)
    assert freed.freed_bytes > 3 * 50_000 and before - freed.freed_bytes == freed.kept_bytes
    assert size(old.path) - freed.kept_bytes < 1000, "its links and a note of the cleaning came on top"
    for arm in ARMS:
        assert not has_weights(old, "arm", arm) and has_weights(old, "evaluate_arm", arm)
        assert (task_folder(old.path, "arm", arm) / "log.txt").read_text() == "said"
        assert not still_cached(runs, old, "arm", arm) and still_cached(runs, new, "arm", arm)
    again = find_run(runs, old.run_id)
    assert again.gate and again.status == "finished" and again.folder.state["cleaned"]
    assert again.origin(again.tasks["arm", "sft"]) == "files freed"


def test_what_a_kept_run_has_from_the_cache_stays_in_the_older_run_s_folder(runs: Path):
    old = past_run(runs, started=at(1))
    past_run(runs, started=at(2), cached=[(old, "arm", "drift"), (old, "curate", "")])
    freed = clean(runs, 1)[1]
    assert has_weights(old, "arm", "drift") and has_weights(old, "curate") and not has_weights(old, "arm", "sft")
    assert still_cached(runs, old, "arm", "drift") and still_cached(runs, old, "curate")
    assert any("from the cache of" in why and why.endswith("2 tasks") for why in freed.why)


@pytest.mark.parametrize("status", ["running", "failed", "killed"])
def test_an_unfinished_run_stays_whole_with_all_that_it_has_from_the_cache(runs: Path, status: str):
    old = past_run(runs, started=at(1))
    left = past_run(runs, started=at(2), cached=[(old, "arm", "drift")], status=status)
    past_run(runs, started=at(3))
    clean(runs, 1)
    assert has_weights(left, "arm", "sft") and has_weights(old, "arm", "drift") and not has_weights(old, "arm", "sft")


def test_a_superseded_run_is_freed(runs: Path):
    left = past_run(runs, started=at(3), status="superseded")
    new = past_run(runs, started=at(1))
    clean(runs, 1)
    assert has_weights(new, "arm", "sft") and not has_weights(left, "arm", "sft")


@pytest.mark.parametrize("alias", ["champion", "previous", "best"])
def test_the_arm_that_an_alias_names_stays(runs: Path, alias: str):
    old = past_run(runs, started=at(1))
    past_run(runs, started=at(2))
    registered(runs, old, "drift", alias)
    freed = clean(runs, 1)[1]
    assert has_weights(old, "arm", "drift") and not has_weights(old, "arm", "sft")
    assert f"{alias} of drift-mini (version 1): 1 task" in freed.why


def test_a_version_that_is_only_an_address_keeps_its_files(runs: Path):
    old = past_run(runs, started=at(1))
    past_run(runs, started=at(2))
    registered(runs, old, "sft", None)
    clean(runs, 1)
    assert has_weights(old, "arm", "sft") and not has_weights(old, "arm", "drift")


def test_each_name_has_its_own_newest_runs(runs: Path):
    other = past_run(runs, name="other", started=at(1))
    mine = [past_run(runs, started=at(hour)) for hour in (2, 3, 4)]
    clean(runs, 2)
    assert has_weights(other, "arm", "sft")
    assert [has_weights(run, "arm", "sft") for run in mine] == [False, True, True]


def test_a_full_disk_is_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with small_disk(tmp_path, "16m"):
        fresh_store(tmp_path)
        old, new = (past_run(tmp_path, started=at(hour)) for hour in (1, 2))
        fill(tmp_path)
        clean(tmp_path, 1)
        assert not has_weights(old, "arm", "sft") and has_weights(new, "arm", "sft")


def test_a_dry_run_says_the_same_and_removes_nothing(runs: Path):
    old, _ = (past_run(runs, started=at(hour)) for hour in (1, 2))
    said = clean(runs, 1, dry_run=True)
    assert has_weights(old, "arm", "sft") and still_cached(runs, old, "arm", "sft")
    assert [one.freed_bytes for one in clean(runs, 1)] == [one.freed_bytes for one in said]
    assert [one.freed_bytes for one in clean(runs, 1)] == [0, 0], "there is nothing left to free"


def test_nothing_is_removed_while_a_run_of_any_name_is_at_work(runs: Path):
    old, _ = (past_run(runs, started=at(hour)) for hour in (1, 2))
    past_run(runs, name="other", started=at(3))
    with only_one(runs, "other"), pytest.raises(PipelineError, match=f"at work: process {os.getpid()} on "):
        clean(runs, 1)
    assert has_weights(old, "arm", "sft")


def test_nothing_is_removed_when_the_registry_cannot_be_asked(runs: Path, monkeypatch: pytest.MonkeyPatch):
    old, _ = (past_run(runs, started=at(hour)) for hour in (1, 2))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"drift-mini: MLflow at http://127[.]0[.]0[.]1:9"):
        clean(runs, 1)
    assert has_weights(old, "arm", "sft")


def test_a_run_whose_own_mlflow_is_no_more_stays_with_all_that_it_has_from_the_cache_and_keeps_no_other(runs: Path):
    first, old = (past_run(runs, started=at(hour)) for hour in (1, 2))
    left = past_run(runs, started=at(3), cached=[(first, "arm", "drift")])
    left.mark("finished", mlflow_uri="http://127.0.0.1:9")
    past_run(runs, started=at(4))
    why = clean(runs, 1)[1].why
    assert why == ("its MLflow, http://127.0.0.1:9, does not answer",)
    assert has_weights(left, "arm", "sft") and has_weights(first, "arm", "drift")
    assert not has_weights(first, "arm", "sft") and not has_weights(old, "arm", "drift")


def test_a_folder_without_runs_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere: no folder of runs"):
        clean(tmp_path / "nowhere", 1)

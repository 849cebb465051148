"""When a retraining has nothing to do: what counts as a change, and what does not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift.config.chain import Config
from drift.config.plan import plan
from drift.config.section import validate
from drift.ground.errors import PipelineError, ServiceError
from drift.tracking.steps import RUN_DIR
from drift.tracking.store import RUN_ID, store_uri
from pipelines.drift_sft import drift_sft
from pipelines.local.folders import RunFolder, create_run
from pipelines.local.kubeflow import run_pipeline
from pipelines.local.run import parameters
from pipelines.local.runner import Chain
from pipelines.local.work import ForkServer
from pipelines.retrain import unchanged
from tests.pool_rows import pool_row, write_pool

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def ended(raw: dict[str, Any], status: str = "finished") -> RunFolder:
    """A run of the configuration as it is now that ended so."""
    config, runs = validate(Config, raw), Path(raw["runs"])
    return create_run(runs, "test", parameters(config, store_uri(runs), "subprocess").sha256()).mark(status)


def repeated(raw: dict[str, Any]) -> str | None:
    """The run that a retraining now would only repeat."""
    same = unchanged(validate(Config, raw))
    return same.run if same else None


def test_before_the_first_finished_run_there_is_something_to_do(raw: dict[str, Any]):
    assert repeated(raw) is None
    for status in ("failed", "killed", "superseded", "running"):
        ended(raw, status)
        assert repeated(raw) is None


def test_the_run_that_would_only_be_repeated_is_named(raw: dict[str, Any]):
    run = ended(raw)
    ended(raw, "failed")
    assert repeated(raw) == str(run.path)


def test_a_run_in_between_with_other_settings_is_the_last_one(raw: dict[str, Any]):
    ended(raw)
    ended(raw | {"seed": 1})
    assert repeated(raw) is None


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"gate": {"candidate": "drift", "min_reasoning_gain": 2}}, {"train": {"epochs": 1}}]
)
def test_a_changed_setting_is_a_change(raw: dict[str, Any], changes: dict[str, Any]):
    ended(raw)
    assert repeated(raw | changes) is None


@pytest.mark.parametrize("path", ["pool.jsonl", "expert/config.json", "teacher/config.json", "Reason.tsv"])
def test_changed_contents_are_a_change(raw: dict[str, Any], tmp_path: Path, path: str):
    ended(raw)
    with (tmp_path / path).open("a") as file:
        file.write("\n")
    assert repeated(raw) is None


def test_changed_code_is_a_change(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    ended(raw)
    monkeypatch.setattr("pipelines.local.run.code_fingerprint", lambda module: "other code")
    assert repeated(raw) is None


def test_without_an_answering_mlflow_nothing_is_skipped(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    ended(raw)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        repeated(raw)


def drift(raw: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`drift retrain` as a person starts it."""
    config = Path(raw["runs"]).parent / "config.yaml"
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    command = [sys.executable, "-W", "ignore", "-c", "from drift.cli import main; main()", "retrain", "-c", str(config)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_the_command_says_what_it_skipped_and_force_runs_anyway(raw: dict[str, Any]):
    run = ended(raw)
    before = sorted(Path(raw["runs"]).iterdir())
    said = drift(raw, "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == {"skipped": True, "run": str(run.path), "started": run.state["started"]}
    assert drift(raw).stdout.startswith(f"nothing changed since {run.path} (")
    assert [path.name for path in before] == sorted(path.name for path in Path(raw["runs"]).iterdir())
    forced = drift(raw, "--force")
    assert (forced.returncode, "step ingest" in forced.stderr) == (2, True), "it ran, into the broken pool"


def ingested(raw: dict[str, Any], folder: Path, server: ForkServer) -> str:
    """What became of `ingest` in a run with a cluster's parameters, which hold no hash of the pool."""
    ends: dict[str, str] = {}
    planned = plan(validate(Config, raw), local=False)
    folder.mkdir()
    environment = {RUN_ID: folder.name, RUN_DIR: str(folder)}
    chain = Chain(folder, folder.name, planned.places, environment, lambda e: ends.update({e.step: e.state}), server)
    with pytest.raises(PipelineError, match="generate"):  # the teacher is an empty folder
        run_pipeline(drift_sft.pipeline_spec, planned.arguments(), chain, cache_root=folder.parent / "cache")
    return ends["ingest"]


def test_with_a_cluster_s_parameters_a_pool_that_changed_under_its_name_is_read_again(
    raw: dict[str, Any], tmp_path: Path, server: ForkServer
):
    raw["ingest"]["source"] = str(write_pool(tmp_path / "pool.parquet", [pool_row(number) for number in range(3)]))
    assert [ingested(raw, tmp_path / name, server) for name in ("first", "again")] == ["finished", "cached"]
    write_pool(tmp_path / "pool.parquet", [pool_row(number) for number in range(4)])
    assert ingested(raw, tmp_path / "changed", server) == "finished"

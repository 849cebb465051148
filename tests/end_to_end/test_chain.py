"""The whole chain: from problems to a registered model, exactly again, and on after a kill in any step."""

import contextlib
import re
import shutil
import signal
import time
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest

from drift.ground.artifacts import read_json
from pipelines.local.clean import clean
from tests.end_to_end import chain
from tests.mlflow_server import mlflow_server
from tests.run_in_mlflow import PAGE, in_mlflow, lacking
from tests.world import ASSETS

ARMS = ("sft", "drift")
STEPS = set(chain.IN_ORDER)
ASKED = {("inputs", ""), ("champion", ""), ("report", "")}
"""What the inputs are and who is champion is asked in every run."""
DECIDED = {("gate", ""), ("report", ""), ("register", "")}
OF_NO_WORK = {"inputs", "champion", "start", "evaluate_champion", "report"}
"""Without a champion they copy or ask: a kill in them is a kill between two others."""


def write_pool(path: Path, problems: int) -> None:
    """The first so many problems of the shipped pool."""
    pq.write_table(pq.read_table(ASSETS / "pool.parquet").slice(0, problems), path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict]:
    """A configuration and its uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    write_pool(folder / "pool.parquet", 200)
    config = chain.write_config(folder, ingest={"source": str(folder / "pool.parquet"), "text_column": "text_problem"})
    return config, chain.run(config)


def local(config: Path) -> str:
    """The store of the configuration's runs."""
    return f"sqlite:///{config.parent}/runs/mlflow.db"


def runs_in_mlflow(config: Path) -> list:
    client = mlflow.MlflowClient(local(config))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def versions(config: Path) -> list:
    return list(mlflow.MlflowClient(local(config)).search_model_versions())


def on_disk(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk, each once."""
    known = {(one.st_dev, one.st_ino): one.st_blocks * 512 for one in (path.lstat() for path in folder.rglob("*"))}
    return sum(known.values())


def test_every_step_works_once_and_the_model_is_registered_as_champion(whole):
    config, result = whole
    assert chain.worked(result) == STEPS
    assert result["passed"] and result["registered"]["version"] == 1
    assert [row["label"] for row in result["summary"]["rows"]] == ["vlm", *ARMS]
    report = Path(result["report"]).read_text()
    assert "<html" in report and "drift" in report
    client = mlflow.MlflowClient(local(config))
    assert len(versions(config)) == 1
    assert set(client.get_registered_model("drift-miniature").aliases) == {"best", "candidate", "champion"}


def test_mlflow_has_one_parent_and_one_child_per_step_and_arm(whole):
    config, result = whole
    runs = runs_in_mlflow(config)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_id for run in parents] == [result["mlflow_run_id"]]
    assert len(runs) == 1 + len(STEPS)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parents[0].data.metrics["drift/reasoning"] == result["summary"]["rows"][2]["reasoning"]["mean"]


BOOKKEEPING = {"events.jsonl", "events.position", "run.json"}
"""What tells MLflow all the rest, and what continues a run: it is written on after MLflow has heard the last."""


def test_every_file_that_the_chain_wrote_is_at_its_own_step_in_mlflow_by_content_or_reference(whole):
    config, result = whole
    found = in_mlflow(local(config), result)
    assert lacking(Path(result["run"]), found) == BOOKKEEPING
    weights = {Path(name).name for kept in found.values() for name in kept.referred}
    assert weights == {"model.safetensors", "delta.safetensors"}, "only weights are referred to"


def test_the_page_of_a_run_says_what_was_decided_with_which_configuration_and_by_whom(whole):
    config, result = whole
    client = mlflow.MlflowClient(local(config))
    page = client.get_run(result["mlflow_run_id"])
    said = page.data.tags["mlflow.note.content"]
    assert said.startswith("**Gate: drift passed.**") and "| drift | " in said
    assert "[drift-miniature version 1](#/models/drift-miniature/versions/1)" in said
    assert page.data.params["arms.drift.delta"] == "base" and page.data.params["evaluate.limit"] == "80"
    assert {"mlflow.user", "mlflow.source.name", "drift.host", "drift.version"} <= set(page.data.tags)
    top = {file.path for file in client.list_artifacts(page.info.run_id)}
    assert top >= {
        "config.yaml",
        "report.html",
        "gate.md",
        "summary.json",
        "registered.json",
        "packages.txt",
        "run.log",
    }


@pytest.mark.slow
def test_a_second_run_measures_the_new_champion_and_a_third_takes_everything_from_the_cache_of_cleaned_runs(whole):
    config, result = whole
    second = chain.run(config)
    assert chain.worked(second) == ASKED | {("evaluate_champion", "")} | DECIDED
    assert second["passed"], "the candidate is the champion itself, and no worse"
    assert second["summary"]["rows"] == result["summary"]["rows"]
    (kept, freed) = clean(config.parent / "runs", 1)
    assert (kept.run, freed.run) == (Path(second["run"]).name, Path(result["run"]).name)
    third = chain.run(config)
    assert chain.worked(third) == ASKED
    assert (Path(third["run"]) / "arms" / "drift" / "model" / "config.json").is_file()
    assert third["summary"] == second["summary"] and third["registered"]["version"] == 1
    assert len(versions(config)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["server", "experiment"])
def test_steps_cached_from_another_store_or_experiment_bring_numbers_curves_and_files(whole, tmp_path, where):
    config, result = whole
    with mlflow_server(tmp_path) if where == "server" else contextlib.nullcontext("") as server:
        moved = chain.run(config, "tracking.experiment=other", server=server)
        assert moved["not_in_mlflow"] == ""
        here, there = in_mlflow(local(config), result), in_mlflow(server or local(config), moved)
    if server:
        shutil.rmtree(moved["run"])  # as its MLflow is gone, cleaning would keep it
    cached = STEPS - chain.worked(moved)
    assert cached >= {("curate", ""), ("deltas", ""), ("arm", "sft"), ("arm", "drift"), ("evaluate_arm", "drift")}
    for step in cached - DECIDED - {("evaluate_champion", "")}:  # which are those of a later run
        assert there[step].files == here[step].files and there[step].referred == here[step].referred, step
        assert there[step].params == here[step].params and there[step].curves == here[step].curves, step
    assert len(there["arm", "drift"].curves["train/loss"]) > 5
    assert there[PAGE].datasets == here[PAGE].datasets == ["training_set"]


@pytest.mark.slow
def test_of_a_run_that_failed_the_page_the_logs_and_all_that_it_wrote_are_in_mlflow(whole):
    config, _ = whole
    process = chain.start(config, "curate.min_kept=190", "curate.keep=190")
    said = process.communicate(timeout=300)[1].splitlines()[-1]
    assert process.returncode == 2 and said.startswith("drift: step curate: ")
    folder = max((config.parent / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime).parent
    state = read_json(folder / "run.json")
    page = mlflow.MlflowClient(state["mlflow_uri"]).get_run(state["mlflow_run_id"])
    assert (page.info.status, page.data.tags["drift.tracking"]) == ("FAILED", "complete")
    description = page.data.tags["mlflow.note.content"]
    assert description.startswith("**curate failed:** ") and f"`{folder}` on " in description
    found = in_mlflow(local(config), state)
    assert "step/log.txt" in found["curate", ""].files and "run.log" in found[PAGE].files
    assert lacking(folder, found) == BOOKKEEPING


@pytest.mark.slow
def test_a_gate_that_refuses_ends_well_and_registers_nothing(whole):
    config, _ = whole
    before = len(versions(config))
    refused = chain.run(config, "gate.min_reasoning_gain=99.5")
    assert not refused["passed"] and refused["registered"] is None
    assert ("register", "") not in {(step["step"], step["arm"]) for step in refused["steps"]}
    assert len(versions(config)) == before
    assert "refused" in refused["summary"]["verdict"]


@pytest.mark.slow
def test_a_changed_setting_reruns_its_arm_and_what_compares_it_and_cleaning_frees_the_arm_before(whole):
    config, _ = whole
    changed = chain.run(config, "arms.sft.train.learning_rate=5e-4")
    assert chain.worked(changed) == {("arm", "sft"), ("evaluate_arm", "sft"), *ASKED, *DECIDED}
    assert len(versions(config)) == 1  # the candidate is the same model

    before = on_disk(config.parent / "runs")
    said = sum(one.freed_bytes for one in clean(config.parent / "runs", 1))
    assert said > (Path(changed["run"]) / "arms" / "sft" / "model" / "model.safetensors").stat().st_size
    assert said <= before - on_disk(config.parent / "runs") <= 1.2 * said, "whole blocks of a disk are a little more"
    again = chain.run(config, "arms.sft.train.learning_rate=5e-4")
    assert chain.worked(again) == ASKED


def without_times(summary: dict) -> dict:
    return {**summary, "rows": [{**row, "train_seconds": None} for row in summary["rows"]]}


def kill_in(config: Path, step: str) -> list[str]:
    """Start the run and kill it, with SIGKILL, as soon as ``step`` is at work; the steps it had finished."""
    before, read = len(chain.events(config)), 0
    process = chain.start(config)
    while process.poll() is None:
        written = sum(path.stat().st_size for path in config.parent.glob("runs/*/events.jsonl"))
        if written > read and any(
            event["step"] == step and event["event"] == "started" for event in chain.events(config)[before:]
        ):
            process.send_signal(signal.SIGKILL)
            break
        read = written
        time.sleep(0.005)
    shown = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, f"{step} never started: {shown}"
    return re.findall(r"^✓ (\S+ ?\S*)", shown, re.MULTILINE)


@pytest.mark.slow
def test_killed_in_every_step_that_works_the_run_goes_on_and_ends_the_same(whole, tmp_path):
    reference, expected = whole
    config = chain.write_config(tmp_path)
    done: list[str] = []
    for step in dict.fromkeys(step for step, _ in chain.IN_ORDER if step not in OF_NO_WORK):
        done += kill_in(config, step)
    result = chain.run(config)
    done += [f"{step} {arm}" for step, arm in chain.worked(result)]
    asked = [step for step, _ in ASKED]
    done = [name for name in done if name.strip() not in asked] + asked  # in every attempt
    assert sorted(name.strip() for name in done) == sorted(f"{step} {arm}".strip() for step, arm in STEPS)
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1
    assert without_times(result["summary"]) == without_times(expected["summary"])
    for name in ("train.parquet", "base/delta.safetensors", "paper/delta.safetensors"):
        assert chain.newest(config, name).read_bytes() == chain.newest(reference, name).read_bytes(), name
    runs = runs_in_mlflow(config)
    assert len(runs) == 1 + len(STEPS) and {run.info.status for run in runs} == {"FINISHED"}
    assert len(versions(config)) == 1


@pytest.mark.slow
def test_a_retraining_with_nothing_new_runs_no_step_and_with_one_new_problem_trains_on_from_the_champion(whole):
    config, result = whole
    chain.run(config)
    before = chain.events(config)
    assert chain.run(config, command="retrain")["skipped"]
    assert chain.events(config) == before

    write_pool(config.parent / "pool.parquet", 201)
    trained = chain.run(config, "models.start=champion", command="retrain")
    assert not trained["skipped"]
    assert {("ingest", ""), ("start", ""), ("arm", "sft"), ("arm", "drift")} <= chain.worked(trained)
    assert not {("deltas", ""), ("evaluate_vlm", "")} & chain.worked(trained)
    (vlm, sft, _), (first_vlm, first_sft, first_drift) = trained["summary"]["rows"], result["summary"]["rows"]
    assert vlm == first_vlm, "the baseline is the original φ_VL"
    assert sft["projection"]["base"] > (first_sft["projection"]["base"] + first_drift["projection"]["base"]) / 2

    before = chain.events(config)
    assert chain.run(config, "models.start=champion", command="retrain")["skipped"]
    assert chain.events(config) == before, "another champion alone is no reason to train"

"""A whole run on this machine, where it fails early: nothing is left running, and the next one goes on from it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from drift.config.chain import Config
from drift.config.plan import Plan, plan
from drift.config.section import validate
from drift.ground.errors import ConfigError, PipelineError, ServiceError
from drift.tracking.steps import parameter_sha256
from pipelines.local.run import require_planned, run
from pipelines.local.runner import Done

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def mlflow_runs(raw: dict[str, Any]) -> dict[str, tuple[str, dict[str, str]]]:
    client = MlflowClient(f"sqlite:///{raw['runs']}/mlflow.db")
    experiment = client.get_experiment_by_name(raw["name"])
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: (run.info.status, run.data.tags) for run in found}


def states(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(raw["runs"]).glob("*/run.json"))]


def test_a_failed_run_is_continued_and_a_changed_one_starts_afresh(raw: dict[str, Any]):
    events = []
    with pytest.raises(PipelineError, match=r"^step ingest: .*pool\.jsonl.*\(log: .*/tasks/ingest/log\.txt\)$"):
        run(validate(Config, raw), on_event=events.append)
    assert [(event.step, event.state) for event in events] == [
        ("inputs", "started"), ("inputs", "finished"), ("ingest", "started"), ("ingest", "failed"),
    ]  # fmt: skip
    (state,) = states(raw)
    assert state["status"] == "failed"
    (folder,) = Path(raw["runs"]).glob("test-*")
    assert yaml.safe_load((folder / "config.yaml").read_text())["ingest"]["source"] == raw["ingest"]["source"]
    assert {name: status for name, (status, _) in mlflow_runs(raw).items()} == {
        folder.name: "FAILED",
        "inputs": "FINISHED",
        "ingest": "FAILED",
    }

    client = MlflowClient(f"sqlite:///{raw['runs']}/mlflow.db")
    ingest = next(one for one in client.search_runs(["1"]) if one.info.run_name == "ingest")
    log = Path(client.download_artifacts(ingest.info.run_id, "step/log.txt")).read_text()
    assert "pool.jsonl" in log, "the log of a failed step is in MLflow"

    with pytest.raises(PipelineError):
        run(validate(Config, raw))
    assert [again["run_id"] for again in states(raw)] == [state["run_id"]], "the same run, in the same folder"
    status, tags = mlflow_runs(raw)["ingest"]
    assert (status, tags["drift.attempt"]) == ("FAILED", "2")
    assert "pool.jsonl" in tags["drift.error"]

    with pytest.raises(PipelineError):
        run(validate(Config, raw | {"ingest": raw["ingest"] | {"limit": 5}}))
    assert [again["status"] for again in states(raw)] == ["superseded", "failed"]


def test_a_run_that_is_given_up_is_closed_in_the_experiment_that_it_was_tracked_in(raw: dict[str, Any]):
    with pytest.raises(PipelineError):
        run(validate(Config, raw))
    (folder,) = Path(raw["runs"]).glob("test-*")
    client = MlflowClient(f"sqlite:///{raw['runs']}/mlflow.db")
    (state,) = states(raw)
    client.update_run(state["mlflow_run_id"], status="RUNNING")  # as a SIGKILL leaves it
    with pytest.raises(PipelineError):
        run(validate(Config, raw | {"tracking": {"experiment": "other"}}))
    assert client.get_run(state["mlflow_run_id"]).info.status == "FAILED"
    other = client.get_experiment_by_name("other").experiment_id
    assert folder.name not in {one.info.run_name for one in client.search_runs([other])}


def test_nothing_starts_without_an_answering_mlflow(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        run(validate(Config, raw))
    assert states(raw) == []


def test_nothing_starts_with_a_missing_input(raw: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"ingest\.source: '/no/pool\.parquet' does not exist"):
        run(validate(Config, raw | {"ingest": {"source": "/no/pool.parquet"}}))
    assert states(raw) == []


def test_a_folder_of_runs_that_cannot_be_written_is_named(raw: dict[str, Any]):
    with pytest.raises(ConfigError, match="runs: /proc/runs cannot be written"):
        run(validate(Config, raw | {"runs": "/proc/runs"}))


RUN = """
import json, sys
from drift.config.chain import Config
from drift.config.section import validate
from pipelines.local.run import run
run(validate(Config, json.load(open(sys.argv[1]))), on_event=lambda event: print(event.step, event.state, flush=True))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_its_step_and_leaves_nothing_running(raw, tmp_path: Path, number: int, code: int):
    (tmp_path / "config.json").write_text(json.dumps(raw | {"ingest": {"source": str(slow_pool(tmp_path))}}))
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path / "config.json")]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        begun = [process.stdout.readline() for _ in range(3)]
        assert begun == ["inputs started\n", "inputs finished\n", "ingest started\n"]
        time.sleep(1)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == code
    assert [state["status"] for state in states(raw)] == ["killed"]
    assert {status for name, (status, _) in mlflow_runs(raw).items() if name != "inputs"} == {"KILLED"}


def slow_pool(folder: Path) -> Path:
    """A pool big enough to be read for a while."""
    path = folder / "slow.jsonl"
    row = json.dumps({"problem": "x" * 100, "answer": "1", "image": "none"}) + "\n"
    path.write_text(row * 400_000)
    return path


@pytest.fixture
def planned(raw: dict[str, Any]) -> Plan:
    return plan(validate(Config, raw))


def done(planned: Plan, *, registers: bool) -> list[Done]:
    """What a run would have left in which everything went as planned."""
    return [
        Done({"step": step, "arm": arm, "parameter_sha256": parameter_sha256(planned.parameter(step, arm))}, {}, False)
        for step, arm in planned.tasks(registers=registers)
    ]


@pytest.mark.parametrize("passed", [True, False])
def test_a_run_as_planned_is_accepted(planned: Plan, passed: bool):
    require_planned(planned, done(planned, registers=passed), passed=passed)


def test_a_branch_that_was_skipped_is_noticed(planned: Plan):
    with pytest.raises(PipelineError, match="step register : ran 0 times instead of once"):
        require_planned(planned, done(planned, registers=False), passed=True)


def test_a_registration_that_the_gate_did_not_allow_is_noticed(planned: Plan):
    with pytest.raises(PipelineError, match="step register : ran although it was not to"):
        require_planned(planned, done(planned, registers=True), passed=False)


def test_an_arm_that_ran_in_the_place_of_another_is_noticed(planned: Plan):
    happened = [replace(one, record=one.record | {"arm": "drift"} if one.record["arm"] else one.record)
                for one in done(planned, registers=True)]  # fmt: skip
    with pytest.raises(PipelineError, match="step arm sft: ran 0 times"):
        require_planned(planned, happened, passed=True)


def test_a_step_that_was_given_another_parameter_is_noticed(planned: Plan):
    happened = done(planned, registers=True)
    happened[1] = replace(happened[1], record=happened[1].record | {"parameter_sha256": "other"})
    with pytest.raises(PipelineError, match="step ingest : was given another parameter than planned"):
        require_planned(planned, happened, passed=True)

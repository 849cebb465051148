"""One step as a component calls it: journal, record, errors, and its end with the runner's."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from kfp import dsl
from kfp.dsl import executor

from drift.config.gate import RegisterConfig
from drift.ground.artifacts import content_sha256
from drift.ground.errors import ConfigError, DataError, UnavailableError
from drift.tracking.steps import LIFELINE, finite_metrics, flatten, labelled, model_uri, parameter_sha256, run_step
from drift.tracking.telling.journal import read, step_key


@dataclass(frozen=True)
class Report:
    loss: float

    def metrics(self) -> dict[str, float]:
        return {"train/final_loss": self.loss}


def parameter(**config) -> str:
    return json.dumps({"config": {"model": "m", **config}, "code": "c", "inputs": {"register.file": "ab" * 32}})


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFT_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("DRIFT_RUN_ID", "r1")
    return tmp_path


def events(folder: Path) -> list[dict]:
    return [event for event, _ in read(folder)]


def test_a_step_writes_what_it_did_into_journal_and_record(run_folder: Path):
    (run_folder / "data").mkdir()
    (run_folder / "data" / "rows").write_text("1")
    (run_folder / "history.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, "prior/cos": 0.5}\n')
    report = run_step(
        "arm", parameter(), RegisterConfig, lambda config: Report(0.5), record=run_folder / "record.json", arm="sft",
        files=[run_folder / "history.jsonl"], datasets={"data": run_folder / "data"},
        history=run_folder / "history.jsonl",
    )  # fmt: skip
    assert report.loss == 0.5
    started, metrics, files, ended = events(run_folder)
    assert started["key"] == "r1/arm/sft" and started["pid"] == os.getpid()
    assert started["params"] == {"arm.model": "m"}
    assert {entry["name"]: entry["digest"] for entry in started["inputs"]} == {
        "register.file": "ab" * 32,
        "data": content_sha256(run_folder / "data"),
    }
    points = [(name, value, step) for name, value, _, step in metrics["metrics"]]
    assert points == [
        ("train/final_loss", 0.5, 0), ("train/loss", 2.0, 1), ("train/loss", 1.0, 2), ("prior/cos", 0.5, 2),
    ]  # fmt: skip
    assert files["paths"] == [str(run_folder / "history.jsonl")]
    assert (ended["event"], ended["status"], ended["error"]) == ("ended", "FINISHED", None)
    record = json.loads((run_folder / "record.json").read_text())
    assert record["key"] == "r1/arm/sft" and record["metrics"] == {"train/final_loss": 0.5}
    assert record["parameter_sha256"] == parameter_sha256(parameter())


@dataclass(frozen=True)
class Diverged:
    def metrics(self) -> dict[str, float]:
        return {"train/final_loss": float("nan"), "prior/cos": float("-inf"), "train/steps": 3}

    def run_tags(self) -> dict[str, str]:
        return {"drift.gate": "refused"}


def test_numbers_that_are_none_are_named_and_never_reach_kubeflow_which_would_fail_the_step(run_folder: Path, caplog):
    report = run_step("arm", parameter(), RegisterConfig, lambda config: Diverged(), record=run_folder / "record.json")
    assert finite_metrics(report) == {"train/steps": 3.0}
    record = json.loads((run_folder / "record.json").read_text(), parse_constant=pytest.fail)
    assert record["metrics"] == {"train/steps": 3.0} and record["not_finite"] == ["prior/cos", "train/final_loss"]
    metrics = next(event for event in events(run_folder) if event["event"] == "metrics")
    assert [name for name, *_ in metrics["metrics"]] == ["train/steps"]
    assert metrics["not_finite"] == ["prior/cos", "train/final_loss"]
    assert "arm: no finite numbers, and not logged: prior/cos, train/final_loss" in caplog.text


def test_kubeflow_s_executor_writes_strict_json_of_numbers_that_are_none(tmp_path: Path):
    """Its launcher reads this by protojson, which has no NaN (2.17.0, backend/src/v2/component/launcher_v2.go:1232)."""

    def arm(metrics: dsl.Output[dsl.Metrics]) -> None:
        metrics.metadata.update(finite_metrics(Diverged()))

    artifact = {"name": "metrics", "type": {"schemaTitle": "system.Metrics"}, "uri": f"{tmp_path}/m", "metadata": {}}
    outputs = {"artifacts": {"metrics": {"artifacts": [artifact]}}, "outputFile": f"{tmp_path}/out.json"}
    executor.Executor(executor_input={"inputs": {}, "outputs": outputs}, function_to_execute=arm).execute()
    said = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert said["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {"train/steps": 3.0}


def test_what_a_report_says_of_the_whole_run_is_in_the_journal(run_folder: Path):
    run_step("gate", parameter(), RegisterConfig, lambda config: Diverged(), record=run_folder / "record.json")
    assert [event["tags"] for event in events(run_folder) if event["event"] == "tags"] == [{"drift.gate": "refused"}]


def test_on_this_machine_a_step_is_not_repeated(run_folder: Path):
    tries = []

    def work(config: RegisterConfig) -> Report:
        tries.append(1)
        raise UnavailableError("the hub is away")

    with pytest.raises(UnavailableError):
        run_step("ingest", parameter(), RegisterConfig, work, record=run_folder / "record.json")
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("pool.parquet: no rows"), "pool.parquet: no rows"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_a_step_that_fails_says_so_on_one_line_and_leaves_no_record(run_folder: Path, error, message):
    def work(config: RegisterConfig) -> Report:
        raise error

    with pytest.raises(type(error)):
        run_step("ingest", parameter(), RegisterConfig, work, record=run_folder / "record.json")
    ended = events(run_folder)[-1]
    assert (ended["status"], ended["error"]) == ("FAILED", message)
    assert not (run_folder / "record.json").exists()


def test_a_parameter_with_an_unknown_key_names_it(run_folder: Path):
    with pytest.raises(ConfigError, match="promotio: unknown key; did you mean 'promotion'"):
        run_step(
            "register", parameter(promotio="auto"), RegisterConfig, lambda config: Report(0), record=run_folder / "r"
        )


def test_a_parameter_of_another_make_is_an_error(run_folder: Path):
    for text in ("drift", "[]"):
        with pytest.raises(ConfigError, match="register: not a parameter that `drift run`"):
            run_step("register", text, RegisterConfig, lambda config: Report(0), record=run_folder / "r")


def test_a_section_alone_is_a_parameter_too(run_folder: Path):
    text = '{"model": "m"}'
    run_step("register", text, RegisterConfig, lambda config: Report(0), record=run_folder / "r")
    assert json.loads((run_folder / "r").read_text())["parameter_sha256"] == parameter_sha256(text)
    with pytest.raises(ConfigError, match=r"RegisterConfig\.model: required, but not set"):
        run_step("register", "{}", RegisterConfig, lambda config: Report(0), record=run_folder / "r")


def test_keys_are_the_same_in_every_attempt():
    assert step_key("r1", "arm", "sft") == "r1/arm/sft"
    assert step_key("r1", "gate", "") == "r1/gate"


def test_a_section_becomes_dotted_parameters():
    nested = {"train": {"prior": {"alpha": -1.0}, "modules": ["attn"]}, "merge": None, "empty": {}}
    assert flatten("arm", nested) == {
        "arm.train.prior.alpha": "-1.0",
        "arm.train.modules": '["attn"]',
        "arm.merge": "null",
        "arm.empty": "{}",
    }


def test_collected_folders_are_named_by_what_they_say_and_not_by_their_order(tmp_path: Path):
    for number, name in enumerate(["sft", "drift"]):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "arm.json").write_text(json.dumps({"arm": name, "model_uri": f"s3://{name}"}))
    folders = [tmp_path / "1", tmp_path / "0"]
    assert labelled(folders, "arm.json", "arm") == {"drift": tmp_path / "1", "sft": tmp_path / "0"}
    assert model_uri("sft", folders) == "s3://sft"
    with pytest.raises(DataError, match="arm 'none' has no record; known: drift, sft"):
        model_uri("none", folders)


STEP = """
import json, sys, time
from drift.config import RegisterConfig
from drift.tracking.steps import run_step
def work(config):
    print("working", flush=True)
    time.sleep(60)
run_step("gate", json.dumps({"config": {"model": "m"}, "inputs": {}}), RegisterConfig, work, record="record.json")
"""


def start(folder: Path, **more) -> subprocess.Popen:
    environment = os.environ | {"DRIFT_RUN_DIR": str(folder), "DRIFT_RUN_ID": "r1"} | more.pop("env", {})
    process = subprocess.Popen(
        [sys.executable, "-c", STEP], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True, **more,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def test_a_terminated_step_is_killed_in_the_journal(tmp_path: Path):
    process = start(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    process.stdout.close()
    assert [(event["event"], event.get("status")) for event in events(tmp_path)][-1] == ("ended", "KILLED")


def test_a_step_dies_with_the_runner_even_if_the_runner_is_killed(tmp_path: Path):
    read_end, write_end = os.pipe()
    process = start(tmp_path, env={LIFELINE: str(read_end)}, pass_fds=(read_end,))
    os.close(read_end)
    time.sleep(0.2)
    assert process.poll() is None, "it works while the runner holds its end"
    os.close(write_end)  # what the system does when the runner is gone
    assert process.wait(5) == -signal.SIGKILL
    process.stdout.close()

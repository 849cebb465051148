"""The doors: short, without logic, and they need nothing but `drift` where they run."""

import ast
import inspect
import json
from pathlib import Path
from types import ModuleType

import pytest
from kfp import dsl

from components import (
    arm,
    champion,
    component,
    curate,
    deltas,
    evaluate,
    finalize,
    gate,
    generate,
    ingest,
    inputs,
    register,
    report,
    sharded,
)
from drift.config.plan import MODULES
from drift.evaluate.scores import read_scores
from drift.tracking.models.ledger import RegistryLedger
from tests.mlflow_store import fresh_store
from tests.pool_rows import pool_row, write_pool
from tests.score_folders import write_score_folder

MODULES_OF_DOORS = (inputs, ingest, generate, curate, deltas, champion, arm, evaluate, gate, register, report, finalize)


def doors_of(*modules: ModuleType) -> dict[str, dsl.base_component.BaseComponent]:
    return {
        name: door
        for module in modules
        for name, door in vars(module).items()
        if isinstance(door, dsl.base_component.BaseComponent)
    }


SHARDED = {f"{name} of shards": door for name, door in doors_of(sharded).items()}
DOORS = doors_of(*MODULES_OF_DOORS) | SHARDED


def body(name: str) -> list[ast.stmt]:
    (function,) = [
        node for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(DOORS[name].python_func))))
        if isinstance(node, ast.FunctionDef) and node.name == name.partition(" ")[0]
    ]  # fmt: skip
    return function.body


def test_there_is_a_door_for_every_step():
    assert {name.partition(" ")[0] for name in DOORS} == {*MODULES, "finalize"}
    assert {component(step).name for step in MODULES} == {step.replace("_", "-") for step in MODULES}


def test_a_step_that_works_in_shards_takes_the_parameter_and_gives_the_outputs_of_the_one_that_does_not():
    for step in ("generate", "curate", "evaluate_vlm", "evaluate_arm"):
        alone, shards = (door.component_spec for door in (DOORS[step], DOORS[f"{step} of shards"]))
        assert shards.outputs == alone.outputs and shards.inputs["step"] == alone.inputs["step"]


@pytest.mark.parametrize("name", sorted(DOORS))
def test_a_door_imports_nothing_but_the_library(name: str):
    imported = {
        node.module.split(".")[0]
        for node in ast.walk(ast.Module(body(name), []))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert imported <= {"drift", "pathlib"}


@pytest.mark.parametrize("name", sorted(DOORS))
def test_a_door_holds_no_logic(name: str):
    branching = ast.If | ast.For | ast.Try
    branches = [node for node in ast.walk(ast.Module(body(name), [])) if isinstance(node, branching)]
    assert branches == []
    assert len(body(name)) <= 13


@pytest.mark.parametrize("name", sorted(set(DOORS) - {"finalize"}))
def test_every_step_says_its_numbers_in_a_file_so_that_the_cache_can_find_it(name: str):
    outputs = DOORS[name].component_spec.outputs
    assert outputs["metrics"].type == "system.Metrics@0.0.1"
    assert "record=metrics.path" in inspect.getsource(inspect.getmodule(DOORS[name].python_func))


@pytest.fixture
def at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFT_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("DRIFT_RUN_ID", "r1")
    return tmp_path


def parameter(config: dict) -> str:
    return json.dumps({"config": config, "code": "", "inputs": {}})


def artifact(kind: type[dsl.Artifact], path: Path) -> dsl.Artifact:
    return kind(name=path.name, uri=str(path))


def test_the_door_of_ingest_opens_and_says_what_was_kept(at_work: Path):
    pool = write_pool(at_work / "pool.parquet", [pool_row(number) for number in range(3)])
    problems, metrics = artifact(dsl.Dataset, at_work / "problems"), artifact(dsl.Metrics, at_work / "metrics")
    ingest.ingest.python_func(parameter({"source": str(pool)}), problems, metrics)
    assert (at_work / "problems" / "problems.parquet").is_file()
    record = json.loads((at_work / "metrics").read_text())
    assert record["step"] == "ingest" and record["metrics"] == dict(metrics.metadata)


def scores(folder: Path, right: int) -> dsl.Artifact:
    """Scores of 60 sums, so many of them right, and of 60 colours, all right."""
    answers = {"Sums": "1" * right + "0" * (60 - right), "Colours": "1" * 60}
    return artifact(dsl.Artifact, write_score_folder(folder, answers))


def no_champion(folder: Path) -> dsl.Artifact:
    """What the door of the champion's evaluation leaves where there is none."""
    made, metrics = artifact(dsl.Artifact, folder), artifact(dsl.Metrics, folder.with_name("metrics"))
    section = {"data": "/none", "benchmarks": {"R": {"role": "reasoning"}}}
    champion.evaluate_champion.python_func(parameter(section), "", made, metrics)
    assert metrics.metadata["champion/evaluated"] == 0
    return made


@pytest.mark.parametrize(("right", "winner"), [(50, "s3://bucket/drift"), (10, "")])
def test_the_door_of_the_gate_returns_where_the_winners_model_is(
    at_work: Path, monkeypatch: pytest.MonkeyPatch, right: int, winner: str
):
    for name in ("sft", "drift"):
        (at_work / f"record-{name}").mkdir()
        text = json.dumps({"arm": name, "model_uri": f"s3://bucket/{name}"})
        (at_work / f"record-{name}" / "arm.json").write_text(text)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store(at_work))
    out = artifact(dsl.Artifact, at_work / "gate")
    returned = gate.gate.python_func(
        parameter({"candidate": "drift", "max_perception_loss": 6.0, "model": "drift-vlm"}),
        scores(at_work / "vlm", 10),
        no_champion(at_work / "champion"),
        [scores(at_work / "sft", 20), scores(at_work / "drift", right)],
        [artifact(dsl.Artifact, at_work / f"record-{name}") for name in ("sft", "drift")],
        out,
        artifact(dsl.Metrics, at_work / "metrics"),
    )
    assert returned == winner
    decided = json.loads((at_work / "gate" / "gate.json").read_text())
    assert (decided["passed"], decided["winner"]) == ((True, "drift") if winner else (False, ""))
    (look,) = RegistryLedger("drift-vlm").looks(read_scores(at_work / "vlm").data_fingerprint)
    assert look.passed is bool(winner), "it is counted under the name that a version would have"

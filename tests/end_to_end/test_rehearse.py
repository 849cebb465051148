"""`drift rehearse` on the paper's configuration: every planned step runs, and what was replaced is said."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from drift.cli.run_view import show_rehearsal
from drift.config.file import load
from drift.config.plan import plan
from drift.planning.rehearsal import rehearsal_of, replaced
from pipelines.local.run import RunResult, StepResult
from pipelines.rehearsal import Rehearsal
from tests.end_to_end import chain

PAPER = chain.ROOT / "configs" / "paper_equation.yaml"


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runs = tmp_path_factory.mktemp("paper") / "runs"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [
        *chain.DRIFT,
        "rehearse",
        "-c",
        str(PAPER),
        "--anyway",
        "--json",
        f"runs={runs}",
        "evaluate.data=/no/data",
    ]
    ended = subprocess.run(command, cwd=chain.ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 2, ended.stderr
    return {**json.loads(ended.stdout), "runs": runs}


@pytest.mark.slow
def test_every_step_of_the_papers_dag_runs_although_data_and_models_are_not_here(rehearsed: dict[str, Any]) -> None:
    planned = plan(load(PAPER), local=False).tasks(registers=True)
    assert sorted((step["step"], step["arm"]) for step in rehearsed["steps"]) == sorted(planned)
    assert len(planned) == 12 + 2 * 8
    assert not any(step["cached"] for step in rehearsed["steps"])


@pytest.mark.slow
def test_what_is_missing_is_still_said(rehearsed: dict[str, Any]) -> None:
    problems = {finding["check"] for finding in rehearsed["findings"] if finding["state"] == "problem"}
    assert problems == {"models.vlm", "models.expert", "models.base", "ingest.source", "evaluate.data"}


@pytest.mark.slow
def test_the_rehearsal_registers_under_a_name_of_its_own(rehearsed: dict[str, Any]) -> None:
    assert rehearsed["registered"]["model"] == "qwen2_5_vl_7b-drift-rehearsal"


@pytest.mark.slow
def test_the_eight_published_forms_are_measured(rehearsed: dict[str, Any]) -> None:
    names = [name.partition("_Tiny")[0] for name in load(PAPER).evaluate.benchmarks]
    measured = {column.partition("_Tiny")[0] for column in rehearsed["summary"]["benchmarks"]}
    assert set(names) == measured


@pytest.mark.slow
def test_a_saved_checkpoint_is_rehearsed_and_nothing_is_left_of_the_models(rehearsed: dict[str, Any]) -> None:
    assert rehearsed["replaced"]["train.save_steps"] == [500, 2]
    assert not list(rehearsed["runs"].glob("rehearsal/world-*"))


@pytest.mark.parametrize("path", sorted((chain.ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_decides_the_wiring_stays(path: Path) -> None:
    config = load(path)
    small = rehearsal_of(config, Path("/world"), gpu=True)
    assert list(small.arms) == list(config.arms) and list(small.deltas) == list(config.deltas)
    assert small.gate.candidate == config.gate.candidate
    for name in config.arms:
        own, rehearsed = config.arm_train(name), small.arm_train(name)
        kept = ("prior", "lora", "deepspeed", "bf16", "learning_rate", "lr_scheduler", "add_think_tokens", "processes")
        assert all(getattr(own, key, None) == getattr(rehearsed, key, None) for key in kept)
        assert rehearsed is None or rehearsed.epochs == 1
    forms = [one.format for one in config.evaluate.benchmarks.values()]
    assert [one.format for one in small.evaluate.benchmarks.values()] == forms


def test_every_replaced_key_is_told(tmp_path: Path) -> None:
    config = load(PAPER)
    told = replaced(config, rehearsal_of(config, tmp_path, gpu=False))
    assert told["gate.beats"] == (["sft"], [])
    assert told["train.deepspeed"] == ("configs/deepspeed/zero2.json", None)
    assert told["models.vlm"] == ("Qwen/Qwen2.5-VL-7B-Instruct", f"{tmp_path}/vlm")
    assert not any(key.startswith(("train.prior", "deltas", "register.promotion", "seed")) for key in told)


def test_a_person_is_told_what_was_replaced_and_that_registering_was_not_reached(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = load(PAPER)
    step = StepResult("ingest", "", 1.0, False)
    folder = tmp_path / "rehearsal" / "test-1"
    result = RunResult(folder, (step,), {"passed": False}, {}, None, tmp_path / "report.html", "sqlite:///x", "1")
    show_rehearsal(Rehearsal(result, 1, replaced(config, rehearsal_of(config, tmp_path, gpu=False))))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "replaced train.epochs 3.0 → 1.0" in lines
    assert lines[-7] == "rehearsed: all 1 planned steps ran"
    assert lines[-5:] == [
        f"again drift runs show test-1 --runs {folder.parent}",
        f"MLflow sqlite:///x (drift ui --runs {folder.parent})",
        "tracking complete",
        "registered model none: the gate refused",
        f"report {tmp_path / 'report.html'}",
    ]


def test_an_arms_own_settings_do_not_undo_what_is_shortened(tmp_path: Path) -> None:
    raw = yaml.safe_load(chain.write_config(tmp_path).read_text())
    raw["arms"]["sft"]["train"] = {"epochs": 50, "bf16": True, "learning_rate": 3.0e-3}
    raw["deltas"]["mixed"] = {"experts": [{"model": "/own/code", "minus": "/own/base"}, {"weight": 2}], "layers": "0-9"}
    parts = [{"layers": "20-27", "weights": [1, 0, 0]}, {"modules": ["attn"], "weights": [1, 0.2, 0.1]}]
    raw["arms"]["two"] = {
        "merge": {"method": "linear", "experts": [None, "/own/code"], "weights": [1, 0.1, 0.1], "parts": parts}
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw))
    small = rehearsal_of(load(tmp_path / "own.yaml"), tmp_path, gpu=False)
    merge = small.arms["two"].merge
    assert merge is not None and merge.experts == (None, f"{tmp_path}/expert")
    assert [part.layers for part in merge.parts] == ["0", None]
    sft = small.arm_train("sft")
    assert sft is not None and (sft.epochs, sft.bf16, sft.learning_rate) == (1, False, 3e-3)
    mixed = small.deltas["mixed"]
    assert (mixed.experts[0].model, mixed.experts[0].minus) == (f"{tmp_path}/expert", f"{tmp_path}/base")
    assert mixed.layers is None


@pytest.mark.parametrize(
    ("start", "rehearsed"), [(None, None), ("champion", "champion"), ("org/own-checkpoint", "/world/vlm")]
)
def test_training_starts_from_the_rehearsals_own_champion_or_vlm(start: str | None, rehearsed: str | None) -> None:
    config = load(PAPER, [f"models.start={start}"] if start else [])
    assert rehearsal_of(config, Path("/world"), gpu=True).models.start == rehearsed

"""`drift gate` without MLflow: exit codes, and the looks in the folder of runs."""

import json
from pathlib import Path

import pytest

from drift.cli.app import main
from tests.score_folders import write_score_folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    right = {"vlm": 20, "drift": 60, "level": 20}
    for name, sums in right.items():
        write_score_folder(tmp_path / name, {"Sums": "1" * sums + "0" * (100 - sums), "Colours": "1" * 200})
    return ["gate", "--baseline", "vlm", "max_perception_loss=2"]


def gate(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def looks() -> list[tuple[str, str, bool | None]]:
    lines = [json.loads(line) for line in Path("runs/looks.jsonl").read_text().splitlines()]
    return [(line["model"], line["candidate"], line["passed"]) for line in lines]


def test_a_pass_ends_with_0_a_refusal_with_3_and_both_are_looks(folders: list[str]) -> None:
    for name, code in (("drift", (None, 0)), ("level", (3,))):
        assert gate([*folders, "--candidate", name, "--out", f"gate-{name}", "--name", "drift-vlm"]) in code
    assert looks()[1::2] == [("drift-vlm", "drift", True), ("drift-vlm", "level", False)]
    assert "Look 2 of 60 at these questions (drift-vlm in runs/looks.jsonl)" in Path("gate-level/gate.md").read_text()


def test_without_a_name_the_looks_are_the_candidates(folders: list[str]) -> None:
    gate([*folders, "--candidate", "drift", "--out", "gate"])
    assert looks()[0] == ("drift", "drift", None)


def test_a_configuration_names_the_registered_model(folders: list[str]) -> None:
    Path("my.yaml").write_text("gate: {candidate: drift}\nregister: {model: mine}\n")
    gate([*folders, "-c", "my.yaml", "--candidate", "drift", "--out", "gate"])
    assert looks()[0][0] == "mine"


def test_the_best_champion_ever_may_be_given_too(folders: list[str]) -> None:
    assert gate([*folders, "--candidate", "level", "--champion", "vlm", "--best", "drift", "--out", "gate"]) == 3
    names = [check["name"] for check in json.loads(Path("gate/gate.json").read_text())["checks"]]
    assert "best_champion_reasoning_loss" in names

"""`drift data`: what its commands print, and where they write."""

import json
from pathlib import Path

import pytest

from drift.cli.app import main
from tests.world import training_set


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return training_set(tmp_path / "chains", 3)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["data", *arguments])
    return int(ended.value.code or 0)


def test_a_page_is_called_like_its_folder_and_says_how_much_it_shows(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("show", "chains/", "--limit", "2") == 0
    assert capsys.readouterr().out == "2 of 3 training rows; written to chains.html\n"
    assert Path("chains.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_an_export_says_what_its_trainer_is_told(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("export", "chains", "--to", "ms-swift", "--out", "out") == 0
    assert "ms-swift: ROOT_IMAGE_DIR=out swift sft --dataset out/train.jsonl\n" in capsys.readouterr().out


def test_an_export_as_json_is_json_alone(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("export", "chains", "--to", "trl", "--out", "out", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": "out", "rows": 3.0, "image_files": 0.0, "converted": 0.0}


@pytest.mark.parametrize("command", [("show", "."), ("export", ".", "--to", "trl", "--out", "out")])
def test_a_folder_without_data_is_one_line_and_exit_code_2(
    folder: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    assert run(*command) == 2
    assert capsys.readouterr().err.count("\n") == 1

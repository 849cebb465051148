"""Past runs: found by what a person calls them, their arms by name, wherever the cache has them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import drift.cli.app  # noqa: F401  # every command
from drift.cli.options import app
from drift.ground.artifacts import write_json
from drift.ground.errors import ConfigError
from drift.tracking.telling.journal import append, make_event
from pipelines.local.difference import difference
from pipelines.local.folders import RunFolder
from pipelines.local.past import find_run, link_outputs, past_runs, scores_of
from tests.run_folders import past_run, task_folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def two(runs: Path) -> tuple[RunFolder, RunFolder]:
    """A run, and a later one that took the arm `drift` from the cache."""
    first = past_run(runs, started="2026-01-01T01:00:00+00:00")
    taken = [(first, "arm", "drift"), (first, "evaluate_arm", "drift")]
    return first, past_run(runs, started="2026-01-01T02:00:00+00:00", cached=taken)


def test_a_cached_task_is_found_in_the_folder_of_the_run_that_did_it(runs: Path, two: tuple[RunFolder, RunFolder]):
    first, second = two
    later = past_runs(runs)[0]
    assert later.folder.run_id == second.run_id
    assert later.output("arm", "drift", "model") == task_folder(first.path, "arm", "drift") / "model"
    assert later.output("arm", "sft", "model") == task_folder(second.path, "arm", "sft") / "model"
    assert [later.origin(later.tasks["arm", arm]) for arm in ("drift", "sft")] == [first.path.name, ""]


def test_links_by_arm_lead_to_models_and_scores_and_survive_a_move(
    runs: Path, two: tuple[RunFolder, RunFolder], tmp_path_factory: pytest.TempPathFactory
):
    for run in two:
        link_outputs(run)
    moved = tmp_path_factory.mktemp("moved") / "runs"
    runs.rename(moved)
    for run in two:
        for arm in ("sft", "drift"):
            for kind in ("model", "scores"):
                assert (moved / run.path.name / "arms" / arm / kind / "weights").is_file()
    moved.rename(runs)


def test_links_to_files_that_are_gone_are_removed(two: tuple[RunFolder, RunFolder]):
    first, second = two
    link_outputs(second)
    task_folder(first.path, "arm", "drift").rename(first.path / "elsewhere")
    link_outputs(second)
    assert not (second.path / "arms" / "drift" / "model").is_symlink()
    assert (second.path / "arms" / "drift" / "scores").is_dir()


@pytest.mark.parametrize("what", ["name", "folder", "path", "id", "beginning"])
def test_a_run_is_found_by_what_a_person_calls_it(runs: Path, two: tuple[RunFolder, RunFolder], what: str):
    second = two[1]
    said = {
        "name": "mini",
        "folder": second.path.name,
        "path": str(second.path),
        "id": second.run_id,
        "beginning": second.run_id[:9],
    }
    assert find_run(runs, said[what]).folder.run_id == second.run_id


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("mimi", "mimi: no run of that name"),
        ("", "no run of that name"),
        ("mini:drfit", "has no scores of 'drfit'; did you mean 'drift'?"),
    ],
)
def test_a_run_or_arm_that_does_not_exist_is_one_line(
    runs: Path, two: tuple[RunFolder, RunFolder], wanted: str, said: str
):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")) as caught:
        scores_of(runs, wanted) if ":" in wanted else find_run(runs, wanted)
    assert "\n" not in str(caught.value)


def said(*arguments: str) -> Any:
    ended = CliRunner().invoke(app, [*arguments, "--json"])
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


def test_the_commands_say_it_as_json(runs: Path, two: tuple[RunFolder, RunFolder]):
    first, second = two
    where = ("--runs", str(runs))
    listed = [(run["run"], run["gate"], run["status"]) for run in said("runs", "list", *where)]
    assert listed == [(run.path.name, "drift passed", "finished") for run in (second, first)]
    shown = said("runs", "show", "mini", *where)
    assert [step["from"] for step in shown["steps"] if step["step"] == "arm drift"] == [first.path.name]
    assert said("runs", "compare", first.run_id, second.run_id, *where)["config"] == {"seed": ["01", "02"]}


def test_a_run_leads_to_its_report_and_to_its_page_on_the_server(runs: Path, monkeypatch: pytest.MonkeyPatch):
    opened = runs / "opened"
    browser = runs / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    page = "https://mlflow.example/#/experiments/1/runs/2"
    run = past_run(runs, started="2026-01-01T01:00:00+00:00")
    run.mark("finished", mlflow=page)
    report = task_folder(run.path, "report") / "report" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<html>")
    key = f"{run.run_id}/report"
    write_json(report.parent.parent / "metrics", {"step": "report", "arm": "", "key": key})
    append(run.path, make_event(key, "report", "", "ended", status="FINISHED", error=None, seconds=1.0))
    for more, place in ((["--mlflow"], page), ([], report.as_uri())):
        ended = CliRunner().invoke(app, ["runs", "open", "mini", *more, "--runs", str(runs)])
        assert ended.exit_code == 0 and ended.stdout.strip() == place
    wait_for(lambda: opened.exists() and opened.read_text().splitlines() == [page, report.as_uri()])


def wait_for(true: Callable[[], bool]) -> None:
    """A browser is started and not waited for."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_failed_says_why_and_what_mlflow_lacks(runs: Path):
    run = past_run(runs, started="2026-01-01T01:00:00+00:00", status="failed")
    key = f"{run.run_id}/report"
    append(run.path, make_event(key, "report", "", "ended", status="FAILED", error="disk full", seconds=1.0))
    shown = CliRunner().invoke(app, ["runs", "show", "mini", "--runs", str(runs)])
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert f"run {run.path}" in lines and "status failed: report: disk full" in lines
    assert f"MLflow drift ui --runs {runs}" in lines
    assert next(line for line in lines if line.startswith("tracking ")).endswith(f"`drift track {run.path}`")


def test_what_is_no_run_of_ours_is_passed_over(runs: Path, two: tuple[RunFolder, RunFolder]):
    for name, content in (("torn", "{"), ("another_program", "{}")):
        (runs / name).mkdir()
        (runs / name / "run.json").write_text(content)
    assert [run.folder.run_id for run in past_runs(runs)] == [run.run_id for run in reversed(two)]


def test_two_runs_differ_in_what_was_asked_for(two: tuple[RunFolder, RunFolder], runs: Path):
    found = difference(*(find_run(runs, run.run_id) for run in two))
    assert found.config == {"seed": ("01", "02")}
    assert found.verdicts == ("drift passed", "drift passed")

"""Run folders: found again while unfinished, one process at a time."""

import os
from pathlib import Path

import pytest

from drift.ground.errors import ConfigError, PipelineError
from pipelines.local.folders import create_run, only_one, unfinished_runs


def test_an_unfinished_run_is_found_again_by_its_name(tmp_path: Path):
    made = create_run(tmp_path, "mini", "abc")
    assert made.path.name.startswith("mini-") and made.state["status"] == "running"
    create_run(tmp_path, "other", "abc")
    (found,) = unfinished_runs(tmp_path, "mini")
    assert (found.path, found.run_id, found.state["parameters_sha256"]) == (made.path, made.run_id, "abc")


@pytest.mark.parametrize(("status", "count"), [("failed", 1), ("killed", 1), ("finished", 0), ("superseded", 0)])
def test_failed_and_killed_runs_are_unfinished(tmp_path: Path, status: str, count: int):
    create_run(tmp_path, "mini", "abc").mark(status)
    assert len(unfinished_runs(tmp_path, "mini")) == count


def test_runs_of_the_same_second_have_folders_of_their_own_and_the_latest_comes_first(tmp_path: Path):
    made = [create_run(tmp_path, "mini", str(number)) for number in range(3)]
    assert len({run.path for run in made}) == 3
    assert [run.state["parameters_sha256"] for run in unfinished_runs(tmp_path, "mini")] == ["2", "1", "0"]


def test_a_folder_that_is_not_a_run_s_is_passed_over(tmp_path: Path):
    (tmp_path / "mini-x").mkdir()
    (tmp_path / "mini-x" / "run.json").write_text("torn {")
    assert unfinished_runs(tmp_path, "mini") == []


def test_two_runs_of_one_name_cannot_work_at_once(tmp_path: Path):
    with only_one(tmp_path, "mini"):
        busy = rf"a run of 'mini' is at work: process {os.getpid()} on .* since .*; wait for it or stop it"
        with pytest.raises(PipelineError, match=busy), only_one(tmp_path, "mini"):
            pass
        with only_one(tmp_path, "other"):
            pass
    with only_one(tmp_path, "mini"):
        pass


def test_a_folder_of_runs_that_cannot_be_written_is_named():
    with pytest.raises(ConfigError, match="runs: /proc/runs cannot be written"), only_one(Path("/proc/runs"), "mini"):
        pass

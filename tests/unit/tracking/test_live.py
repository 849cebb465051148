"""Numbers of a step at work: they are there while it works, with their own times, and once."""

import json
import logging
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drift.config.gate import RegisterConfig
from drift.tracking.runs.tracker import Tracker
from drift.tracking.steps import run_step
from drift.tracking.telling.journal import make_event, read
from drift.tracking.telling.live import LIVE, Live, curves, telling, told
from drift.tracking.telling.machine import watched
from drift.tracking.telling.progress import Progress
from tests.cluster_steps import PARAMETER, Pods, Report, by_name
from tests.mlflow_store import fresh_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def points(folder: Path) -> list[list]:
    return [point for event, _ in read(folder) if event["event"] == "metrics" for point in event["metrics"]]


def test_numbers_come_in_batches_with_their_own_times(tmp_path: Path):
    with telling(tmp_path, "r1/arm/sft", "arm", "sft"):
        live = Live(every=3600)
        live.tell({"train/loss": 2.0}, 1, at=10.5)  # the first is told at once: it shows that something goes on
        assert points(tmp_path) == [["train/loss", 2.0, 10500, 1]]
        live.tell({"train/loss": 1.0}, 2, at=11.5)
        live.tell({"train/loss": 0.5}, 3, at=12.5)
        assert len(points(tmp_path)) == 1
        live.flush()
    assert points(tmp_path)[1:] == [["train/loss", 1.0, 11500, 2], ["train/loss", 0.5, 12500, 3]]
    assert told(tmp_path, "r1/arm/sft") == {
        ("train/loss", 10500, 1),
        ("train/loss", 11500, 2),
        ("train/loss", 12500, 3),
    }
    assert told(tmp_path, "r1/arm/drift") == set()


def test_a_number_that_is_none_is_no_point_of_a_curve():
    row = {"step": 3, "time": 1.0, "loss": float("nan"), "grad_norm": float("inf"), "learning_rate": 0.5}
    assert curves(row) == {"train/learning_rate": 0.5}


def test_outside_a_step_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(LIVE, raising=False)
    monkeypatch.chdir(tmp_path)
    Live(0).tell({"loss": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


def history(folder: Path, rows: int) -> Path:
    """As an arm writes it: row n was logged n seconds after 100."""
    lines = [
        json.dumps({"step": n, "loss": 1.0 / n, "drift/cos_mean": 0.1, "time": 100.0 + n}) for n in range(1, rows + 1)
    ]
    (folder / "history.jsonl").write_text("\n".join(lines))
    return folder / "history.jsonl"


def test_what_was_told_live_is_not_told_again_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DRIFT_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("DRIFT_RUN_ID", "r1")

    def work(_: object) -> Report:
        live = Live(0)
        for n in (3, 4):  # 1 and 2 were trained by an earlier attempt, whose journal is lost
            live.tell({"train/loss": 1.0 / n, "drift/cos_mean": 0.1}, n, at=100.0 + n)
        return Report({"train/steps": 4.0})

    run_step("arm", PARAMETER, RegisterConfig, work, record=tmp_path / "r", arm="sft", history=history(tmp_path, 4))
    found = [(name, stamp, step) for name, _, stamp, step in points(tmp_path) if step]
    names = ("train/loss", "drift/cos_mean")
    assert sorted(found) == sorted((name, (100 + n) * 1000, n) for n in range(1, 5) for name in names)


def test_a_step_that_a_training_repeats_after_its_checkpoint_is_one_point(tmp_path: Path):
    uri = fresh_store(tmp_path)
    for attempt, steps in enumerate([(1, 2, 3, 4), (3, 4, 5, 6)]):  # killed at 4, gone on with from 2
        tracker = Tracker.open(uri, experiment="drift", run_id="r1", name="r1")
        numbers = [[name, 1.0, 1000 * attempt + n, n] for n in steps for name in ("train/loss", "cos(g,Δ)")]
        looks = [["system/cpu_utilization_percentage", 1.0, 1000 * attempt + n, n] for n in steps]
        line = make_event("r1/arm/sft", "arm", "sft", "metrics", metrics=numbers + looks)
        tracker.apply(line)
        tracker.apply(line)
    client, run = MlflowClient(uri), by_name(uri)["r1/arm/sft"].info.run_id
    names = [name for name in client.get_run(run).data.metrics if "system" not in name]
    assert len(names) == 2
    for name in names:
        found = [(point.step, point.timestamp) for point in client.get_metric_history(run, name)]
        assert sorted(found) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1005), (6, 1006)]
    assert len(client.get_metric_history(run, "system/cpu_utilization_percentage")) == 8, "each look was one"


def test_a_step_on_a_cluster_shows_its_curve_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = fresh_store(tmp_path)
    pods = Pods(tmp_path, monkeypatch, uri)
    seen: list[dict[str, float]] = []

    def work(_: object) -> Report:
        live = Live(0)
        for n in (1, 2):
            live.tell({"train/loss": 1.0 / n}, n)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and by_name(uri)["r1/arm"].data.metrics.get("train/loss") != 1.0 / n:
                time.sleep(0.1)
            seen.append(by_name(uri)["r1/arm"].data.metrics)
        return Report()

    assert pods.step("r1", "arm", work) is None
    assert [row["train/loss"] for row in seen] == [1.0, 0.5]


def test_progress_says_what_is_done_and_what_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    with telling(tmp_path, "r1/generate", "generate", ""), Progress("generate", 4, done=1, unit="sample") as progress:
        progress.update(tokens=100)
        progress.update(failed=True)
        progress.update(tokens=None)
    last = {name: (value, step) for name, value, _, step in points(tmp_path)}
    assert last["live/done"] == (3.0, 3) and last["live/failed"] == (1.0, 3)
    assert last["live/tokens_per_second"][0] > 0
    assert "generate: 3 of 4 samples, 1 failed, " in caplog.text


def test_the_machine_is_watched_under_mlflows_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with telling(tmp_path, "r1/arm", "arm", ""):
        with watched():
            time.sleep(0.5)
        names = {name for name, *_ in points(tmp_path)}
        assert names >= {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
        assert {step for *_, step in points(tmp_path)} >= {0, 1, 2}
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        before = len(points(tmp_path))
        with watched():
            assert "machine" not in {thread.name for thread in threading.enumerate()}
        assert len(points(tmp_path)) == before

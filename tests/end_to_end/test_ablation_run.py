"""An ablation is killed and goes on: no finished arm is repeated, and one that fails loses no other."""

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from tests.end_to_end import chain

BROKEN = 1.0e30
"""A learning rate at which no loss stays finite."""


def write_ablation(folder: Path) -> Path:
    """A merge, which is there soonest, a training, and one that cannot end well."""
    raw = {
        "name": "killed",
        "base": str(chain.ROOT / "configs" / "miniature.yaml"),
        "arms": ["task_arithmetic", "sft"],
        "changes": {
            "runs": str(folder / "runs"),
            "ingest": {"limit": 100},
            "generate": {"samples": 1},
            "curate": {"keep": 40, "min_kept": 16},
            "train": {"epochs": 30},  # so that it is still at work when the merge has been scored
            "evaluate": {"limit": 16},
        },
        "grid": [{"name": "broken", "axes": {"rate": [BROKEN]}, "arm": {"train.learning_rate": "{rate}"}}],
        "table": {"title": "Killed", "against": "sft"},
    }  # fmt: skip
    path = folder / "killed.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [*chain.DRIFT, "ablate", *arguments],
        cwd=chain.ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(folder: Path) -> Counter[tuple[str, str]]:
    """How often each step of each arm has worked to a good end, in all runs."""
    (folder / "config.yaml").write_text(yaml.safe_dump({"runs": str(folder / "runs")}))
    events = chain.events(folder / "config.yaml")
    ended = [one for one in events if one["event"] == "ended" and one["status"] == "FINISHED"]
    return Counter((one["step"], one["arm"]) for one in ended)


@pytest.mark.slow
def test_a_killed_ablation_repeats_no_finished_arm_and_a_broken_arm_loses_no_other(tmp_path):
    path = write_ablation(tmp_path)
    process = start("run", str(path))
    deadline = time.monotonic() + 300
    while not finished(tmp_path)["evaluate_arm", "task_arithmetic"]:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)  # for the cache to take it
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ("arm", "sft") not in finished(tmp_path), "it was to be killed at work"

    table, _ = start("table", str(path), "--format", "md").communicate(timeout=120)
    assert "| sft | — |" in table and "seed0, sft, broken: not made yet" in table
    assert "| task_arithmetic | — |" not in table, "what is there is shown"

    again = start("run", str(path))
    out, err = again.communicate(timeout=600)
    assert again.returncode == 2, err
    after = finished(tmp_path)
    made = {(step, arm): after[step, arm] for step in ("arm", "evaluate_arm") for arm in ("sft", "task_arithmetic")}
    assert set(made.values()) == {1}, made
    assert after["generate", ""] == after["curate", ""] == after["evaluate_vlm", ""] == after["gate", ""] == 1
    assert ("arm", "broken") not in after
    assert re.search(r"^ *broken +—", out, re.MULTILINE) and not re.search(r"^ *sft +—", out, re.MULTILINE)
    assert "seed0, broken: arm: " in out
    assert in_scores(tmp_path) == in_table(path) == in_report(tmp_path) == in_mlflow(tmp_path)


Numbers = dict[tuple[str, str], float]
"""Percent by arm and column, and by arm and role."""


def in_scores(folder: Path) -> Numbers:
    """What the arms' `scores.json` say; the means are taken here."""
    found: Numbers = {}
    for path in folder.glob("runs/killed-*/tasks/**/scores.json"):
        scores = json.loads(path.read_text())
        roles: dict[str, list[float]] = {"reasoning": [], "perception": []}
        for name, one in scores["benchmarks"].items():
            found[scores["label"], name] = one["columns"][name]["mean"]
            roles[one["role"]].append(one["columns"][name]["mean"])
        found |= {(scores["label"], role): sum(values) / len(values) for role, values in roles.items()}
    assert {arm for arm, _ in found} == {"vlm", "task_arithmetic", "sft"}
    return found


def in_table(path: Path) -> Numbers:
    table, _ = start("table", str(path), "--format", "csv").communicate(timeout=120)
    rows = csv.DictReader(table.splitlines())
    return {(row["method"], row["column"]): float(row["mean"]) for row in rows if row["mean"]}


def in_report(folder: Path) -> Numbers:
    """The table that the page links to, all of whose numbers the page shows."""
    (report,) = folder.glob("runs/killed-*/tasks/report/report/report.html")
    rows = list(csv.DictReader((report.parent / "tables" / "results.csv").read_text().splitlines()))
    page = report.read_text()
    assert all(f"{float(row['percent']):.1f}" in page for row in rows)
    return {(row["model"], row["column"].removesuffix(" mean")): float(row["percent"]) for row in rows}


def in_mlflow(folder: Path) -> Numbers:
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "killed")
    found: Numbers = {}
    for run in client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'"):
        arm = run.data.tags.get("drift.arm") or "vlm"
        of_step = run.data.metrics if run.info.run_name.startswith("evaluate_") else {}
        for name, value in of_step.items():
            role, _, column = name.partition("/")
            if role in ("reasoning", "perception"):
                found[arm, role if column == "mean" else column] = value
    return found

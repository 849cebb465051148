"""A chain on the miniature world, cut down to seconds a step, as a person starts it: a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
IN_ORDER = [
    *((step, "") for step in ("inputs", "ingest", "generate", "curate", "deltas", "evaluate_vlm")),
    ("champion", ""),
    ("start", ""),
    ("evaluate_champion", ""),
    *((step, arm) for step in ("arm", "evaluate_arm") for arm in ("sft", "drift")),
    *((step, "") for step in ("gate", "report", "register")),
]
"""(step, arm) of every task of the run below."""

DRIFT = [sys.executable, "-c", "from drift.cli import main; main()"]


def write_config(folder: Path, **changes: Any) -> Path:
    """configs/miniature.yaml with two arms, a quarter of the training and of the questions, below ``folder``."""
    raw = yaml.safe_load((ROOT / "configs" / "miniature.yaml").read_text())
    raw["ingest"]["limit"] = 200
    raw["generate"]["samples"] = 1
    raw["curate"] |= {"keep": 96, "min_kept": 64}
    raw["train"] |= {"learning_rate": 4.0e-3}
    raw["arms"] = {name: raw["arms"][name] for name in ("sft", "drift")}
    raw["evaluate"]["limit"] = 80
    raw["gate"] |= {"min_reasoning_gain": 2, "max_perception_loss": 20}
    raw["runs"] = str(folder / "runs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**raw, **changes}, sort_keys=False))
    return folder / "config.yaml"


def two_arms(folder: Path) -> Path:
    """The paper's configuration with two of its arms, a training and a merge."""
    raw = yaml.safe_load((ROOT / "configs" / "paper_equation.yaml").read_text())
    raw["arms"] = {name: raw["arms"][name] for name in ("drift", "ties")}
    raw["gate"]["beats"] = ["ties"]
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder / "config.yaml"


def start(config: Path, *overrides: str, command: str = "run", server: str = "") -> subprocess.Popen[str]:
    """A `drift run`, or another command, in the background; ``server``: the MLflow that is told."""
    arguments = [*DRIFT, command, "-c", str(config), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment |= {"MLFLOW_TRACKING_URI": server} if server else {}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(config: Path, *overrides: str, command: str = "run", server: str = "") -> dict[str, Any]:
    """A `drift run`, or another command, to its end."""
    process = start(config, "--json", *overrides, command=command, server=server)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def events(config: Path) -> list[dict[str, Any]]:
    """What the steps of all runs wrote into their journals, in the order of the runs."""
    lines = []
    for journal in sorted(Path(yaml.safe_load(config.read_text())["runs"]).glob("*/events.jsonl")):
        lines += [line for line in journal.read_text().splitlines() if line.endswith("}")]
    return [json.loads(line) for line in lines]


def worked(result: dict[str, Any]) -> set[tuple[str, str]]:
    """The steps of a run that did not come from the cache."""
    return {(step["step"], step["arm"]) for step in result["steps"] if not step["cached"]}


def newest(config: Path, pattern: str) -> Path:
    """The newest file that the steps of this configuration's runs wrote under this name."""
    found = Path(yaml.safe_load(config.read_text())["runs"]).glob(f"*/tasks/**/{pattern}")
    return max((path for path in found if ".partial" not in str(path)), key=lambda path: path.stat().st_mtime)

"""The inputs of all commands, from the miniature's models and problems: made once, copied for every cell."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import yaml

from drift.ground.artifacts import content_sha256, write_json
from tests.forked import drift
from tests.score_folders import write_score_folder
from tests.world import ASSETS, training_set

MODELS = ("vlm", "expert", "base", "teacher")
PROBLEMS = 24
BENCHMARKS = ("MiniMath2", "MiniRead")
QUESTIONS = 12
ANSWERS = {"vlm": 20, "drift": 60}
"""Of 100 sums, that each model of the written score folders gets right."""
PAIRS = [{"gold": str(number % 7), "response": f"So it is \\boxed{{{number % 5}}}."} for number in range(79)]


_ANY = "require_correct=false require_format=false"


def make_world(folder: Path) -> Path:
    """Every input below the new ``folder``."""
    folder.mkdir(parents=True)
    for name in MODELS:
        shutil.copytree(ASSETS / name, folder / name)
    for name in ("pool", "replay"):
        shutil.copy(ASSETS / f"{name}.parquet", folder)
    _tables(folder / "tables")
    training_set(folder / "train", 32)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    _steps(folder)
    _verdicts(folder)
    (folder / "run.yaml").write_text(yaml.safe_dump(chain(), sort_keys=False))
    return folder


def _tables(folder: Path) -> None:
    folder.mkdir()
    for name in BENCHMARKS:
        lines = (ASSETS / "benchmarks" / f"{name}.tsv").read_text().splitlines(keepends=True)
        (folder / f"{name}.tsv").write_text("".join(lines[: QUESTIONS + 1]))


def _steps(here: Path) -> None:
    """What `ingest`, `generate`, `curate` and `delta` leave to the steps after them."""
    ask = f"--model {here}/teacher samples=1 max_new_tokens=64 teacher.threads=1 -c configs/miniature.yaml"
    for line in (
        f"ingest --source {here}/pool.parquet --out {here}/problems limit={PROBLEMS}",
        f"generate --problems {here}/problems --out {here}/generations {ask}",
        f"curate --problems {here}/problems --generations {here}/generations --out {here}/curated {_ANY}",
        f"delta --expert {here}/expert --vlm {here}/vlm --out {here}/delta",
    ):
        ended = drift(*line.split())
        if ended.returncode:
            sys.exit(f"the world of the campaign cannot be made: {line}\n{ended.stderr}")


def _verdicts(here: Path) -> None:
    """Scores of two models as `evaluate` writes them, and a gate that passed the miniature's VLM, to be registered."""
    for name, sums in ANSWERS.items():
        write_score_folder(here / "scores" / name, {"Sums": "1" * sums + "0" * (100 - sums), "Colours": "1" * 200})
    scores = f"--baseline {here}/scores/vlm --candidate {here}/scores/drift"
    drift(*f"gate {scores} --out {here}/gate --runs {here}/looks max_perception_loss=2".split())
    shutil.rmtree(here / "looks")
    decision = json.loads((here / "gate" / "gate.json").read_text())
    (here / "passed").mkdir()
    write_json(here / "passed" / "gate.json", decision | {"model_sha256": content_sha256(here / "vlm")})


def chain() -> dict[str, object]:
    """The miniature's configuration, cut down to seconds; paths as seen from a cell, which holds the world as `in`."""
    raw = yaml.safe_load(Path("configs/miniature.yaml").read_text())
    models = {name: f"in/{name}" for name in ("vlm", "expert", "base")}
    benchmarks = {name: raw["evaluate"]["benchmarks"][name] for name in BENCHMARKS}
    return raw | {
        "models": models,
        "ingest": {"source": "in/pool.parquet", "limit": 40},
        "generate": raw["generate"] | {"teacher": raw["generate"]["teacher"] | {"model": "in/teacher"}, "samples": 1},
        "curate": {"keep": 16, "min_kept": 8},
        "deltas": {"base": raw["deltas"]["base"]},
        "train": raw["train"] | {"epochs": 1, "logging_steps": 1, "save_steps": 1},
        "arms": {"drift": raw["arms"]["drift"]},
        "evaluate": raw["evaluate"] | {"data": "in/tables", "benchmarks": benchmarks},
        "gate": {"candidate": "drift", "min_reasoning_gain": -101, "max_perception_loss": 100},
        "runs": "disk/out",
    }

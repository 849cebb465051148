"""What is run: one row a command. Every command runs in a cell's folder, reads `in` and writes into `disk`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.ground.artifacts import PROVENANCE
from tests.faults.servers import MLFLOW, SECONDS, TEACHER
from tests.forked import drift
from tests.told_runs import ToldRun

Result = dict[str, str]
"""What a command made, by name: a hash, or a word. Empty: nothing."""


@dataclass(frozen=True)
class Place:
    """Where a command ran: its folder, the name that is its own, its server as it sees it and behind the proxy."""

    folder: Path
    name: str
    server: str = ""
    upstream: str = ""
    printed: str = ""


@dataclass(frozen=True)
class Command:
    """``line`` may name `{server}`, the address of ``server``, and `{name}`, a name of the cell's own.

    ``reads`` are the files that are spoiled in turn. ``gradual``: what it makes grows, and may be there in parts.
    ``cheap``: part of the campaign at its reduced size.
    """

    name: str
    line: str
    result: Callable[[Place], Result]
    reads: tuple[str, ...] = ()
    server: str = ""
    writes: bool = True
    gradual: bool = False
    cheap: bool = False
    prepare: Callable[[Place], None] | None = None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(*patterns: str) -> Callable[[Place], Result]:
    """The files of `disk/out` with these names, by their bytes; of all others, and of provenance, the names."""

    def result(place: Place) -> Result:
        out = place.folder / "disk" / "out"
        found = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}
        return {name: _hash(path) if _is(path, patterns) else "there" for name, path in found.items()}

    return result


def _is(path: Path, patterns: Sequence[str]) -> bool:
    return path.name != PROVENANCE and any(path.match(pattern) for pattern in patterns)


def one_file(name: str) -> Callable[[Place], Result]:
    """The file `disk/NAME`, by its bytes."""

    def result(place: Place) -> Result:
        path = place.folder / "disk" / name
        return {name: _hash(path)} if path.is_file() else {}

    return result


def printed(place: Place) -> Result:
    """What it says as JSON, but for the room that there is on the disk."""
    said = re.sub(r'"free": \d+', "", place.printed)
    return {"said": hashlib.sha256(said.encode()).hexdigest()} if said else {}


def _versions(place: Place) -> Iterator[Any]:
    from mlflow import MlflowClient

    return iter(MlflowClient(place.upstream).search_model_versions(f"name = '{place.name}'"))


def registered(place: Place) -> Result:
    """The versions of the cell's own model, each with its files' hash; a champion without files is told apart."""
    from mlflow import MlflowClient

    client, found = MlflowClient(place.upstream), {}
    for version in _versions(place):
        aliases = ",".join(sorted(client.get_model_version(place.name, version.version).aliases))
        found[f"version {version.version}"] = f"{version.tags.get('drift.fingerprint')} {aliases}"
    return found


def chain(place: Place) -> Result:
    """The weights of every model, the verdict and the versions of a whole chain."""
    tasks = place.folder.glob("disk/out/*/tasks/**/*.safetensors")
    weights = {path.parent.name: _hash(path) for path in tasks if "partial" not in str(path)}
    whole = (_state(run)["status"] == "finished" for run in place.folder.glob("disk/out/*/run.json"))
    return {**weights, **registered(place)} if any(whole) else {}


def _state(run: Path) -> Any:
    return json.loads(run.read_text())


def told(place: Place) -> Result:
    """The MLflow runs of a told run: parameters and the points of their metrics."""
    from mlflow import MlflowClient

    from tests.cluster_steps import by_name

    client, made = MlflowClient(place.upstream), by_name(place.upstream, "faults")
    mine = {key.removeprefix(place.name): run for key, run in made.items() if key.startswith(place.name)}
    points = {key: len(client.get_metric_history(run.info.run_id, "train/loss")) for key, run in mine.items()}
    return {key: f"{run.info.status} {dict(run.data.params)} {points[key]}" for key, run in mine.items()}


def a_told_run(place: Place) -> None:
    """A run that is over, and has told MLflow nothing yet."""
    ToldRun(place.folder / "disk" / "run", place.name, place.server).tell()


def served_model(place: Place) -> None:
    """The miniature's VLM as version 1 of the cell's own model."""
    inputs = place.folder / "in"
    line = f"register --model {inputs}/vlm --gate {inputs}/passed --name {place.name}"
    ended = drift(*line.split(), MLFLOW_TRACKING_URI=place.upstream)
    assert ended.returncode == 0, ended.stderr


WEIGHTS = ("vlm/model.safetensors", "expert/model.safetensors")
ASKED = f"max_retries=1 timeout_seconds={SECONDS}"
ROLES = "benchmarks.MiniMath2.role=reasoning benchmarks.MiniRead.role=perception"
SCORES = ("scores/drift/scores.json", "scores/vlm/scores.json", "scores/drift/samples.parquet")

COMMANDS = [
    Command(
        "ingest",
        "ingest --source in/pool.parquet --out disk/out",
        files("*.parquet"),
        reads=("pool.parquet",),
        cheap=True,
    ),
    Command(
        "generate, a checkpoint",
        "generate --problems in/problems --out disk/out --model in/teacher samples=2 max_new_tokens=48"
        " teacher.threads=1 teacher.batch_size=8",
        files("*.parquet"),
        reads=("problems/problems.parquet", "teacher/model.safetensors"),
    ),
    Command(
        "generate, a server",
        "generate --problems in/problems --out disk/out --model served --endpoint {server}/v1 samples=4 "
        + " ".join(f"teacher.{one}" for one in ASKED.split())
        + " teacher.concurrency=4",
        files("*.parquet"),
        server=TEACHER,
        cheap=True,
    ),
    Command(
        "curate",
        "curate --problems in/problems --generations in/generations --out disk/out require_correct=false",
        files("*.parquet"),
        reads=("problems/problems.parquet", "generations/part-00000-00000.jsonl"),
        cheap=True,
    ),
    Command("verify", "verify in/pairs.jsonl --out disk/out", one_file("out"), reads=("pairs.jsonl",), cheap=True),
    Command(
        "delta",
        "delta --expert in/expert --vlm in/vlm --out disk/out",
        files("*.safetensors"),
        reads=WEIGHTS,
        cheap=True,
    ),
    Command(
        "merge",
        "merge --method ties --expert in/expert --vlm in/vlm --base in/base --out disk/out",
        files("*.safetensors"),
        reads=(*WEIGHTS, "base/model.safetensors"),
    ),
    Command(
        "train",
        "train --model in/vlm --data in/train --delta in/delta --out disk/out bf16=false threads=1"
        " gradient_checkpointing=false cutoff_tokens=256 per_device_batch_size=4 epochs=1 save_steps=2",
        files("*.safetensors"),
        reads=("train/train.parquet", "delta/delta.safetensors", "vlm/model.safetensors"),
    ),
    Command(
        "evaluate, a checkpoint",
        f"evaluate --data in/tables --model in/vlm --out disk/out max_new_tokens=24 batch_size=4 threads=1 {ROLES}",
        files("samples.parquet"),
        reads=("tables/MiniMath2.tsv", "vlm/model.safetensors"),
    ),
    Command(
        "evaluate, a server",
        "evaluate --data in/tables --model served --endpoint {server}/v1 --out disk/out "
        + " ".join(f"endpoint.{one}" for one in ASKED.split())
        + f" endpoint.concurrency=2 {ROLES}",
        files("samples.parquet"),
        reads=("tables/MiniRead.tsv",),
        server=TEACHER,
    ),
    Command(
        "compare",
        "compare in/scores/drift in/scores/vlm --out disk/out",
        files("*.json", "*.md"),
        reads=SCORES,
        cheap=True,
    ),
    Command(
        "gate",
        "gate --baseline in/scores/vlm --candidate in/scores/drift --out disk/out --runs disk/looks"
        " max_perception_loss=2",
        files("gate.json"),
        reads=SCORES,
    ),
    Command(
        "report",
        "report --baseline in/scores/vlm --arm drift=in/scores/drift --gate in/gate --training-set in/curated"
        " --out disk/out",
        files("*.json"),
        reads=("gate/gate.json", *SCORES[:1]),
    ),
    Command(
        "register",
        "register --model in/vlm --gate in/passed --name {name}",
        registered,
        reads=("passed/gate.json", "vlm/model.safetensors"),
        server=MLFLOW,
        gradual=True,
    ),
    Command(
        "models download",
        "models download {name} 1 --out disk/out",
        files("*.safetensors"),
        server=MLFLOW,
        prepare=served_model,
    ),
    Command(
        "track",
        "track disk/run",
        told,
        reads=(),
        server=MLFLOW,
        gradual=True,
        prepare=a_told_run,
    ),
    Command(
        "plan",
        "plan -c in/run.yaml --json",
        printed,
        reads=("run.yaml", "vlm/model.safetensors", "expert/model.safetensors"),
        writes=False,
    ),
    Command("compile", "compile -c in/run.yaml --out disk/out.yaml", one_file("out.yaml"), reads=("run.yaml",)),
    Command(
        "run",
        "run -c in/run.yaml --quiet register.model={name}",
        chain,
        reads=("pool.parquet", "teacher/model.safetensors", "tables/MiniMath2.tsv"),
        server=MLFLOW,
        gradual=True,
    ),
]

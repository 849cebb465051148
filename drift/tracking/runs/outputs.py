"""What a step wrote, in MLflow: its files, samples of its tables, and references to what is too large.

A reference is an artifact `references/<output>.json`: address, size and SHA-256 of each file that stays where it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.ground.artifacts import content_sha256
from drift.tracking.limits import for_file, limit
from drift.tracking.runs.tables import TABLES, sample

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

UPLOAD = "DRIFT_UPLOAD"
"""`tracking.upload` in a step: all, winner or none."""
DEFAULT_UPLOAD = "winner"
LARGE_BYTES = 256 * 1024**2
"""A single file above this stays where it is."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
ROWS = (".parquet", ".jsonl", ".answers.html")
LOGGED_TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow's page finds tables."""


@dataclass(frozen=True)
class File:
    """A file of an output: where it lies, its name inside the output, and its address for others."""

    path: Path
    name: str
    uri: str


def log_files(client: MlflowClient, runs: Iterable[str], paths: Iterable[str], at: str | None = None) -> None:
    """Each file into the folder `at` of each run, whatever becomes of the others. One that is gone will never come,
    and is said. Raises what MLflow said of the first that it refused."""
    work = []
    for path in map(Path, paths):
        if path.exists():
            work += [partial(_upload, client, run, path, at) for run in runs]
        else:
            log.warning("%s: is gone before MLflow had it", path)
    _each(work)


def publish(client: MlflowClient, run: str, event: Mapping[str, Any]) -> None:
    """Log the outputs that an event names, each file whatever becomes of the others. Again, it changes nothing."""
    policy, known = event["upload"], {str(path) for path in event["known"]}
    work: list[Callable[[], None]] = []
    for name, where in event["folders"].items():
        files = list(_files(Path(where["path"]), where["uri"]))
        if not files:
            log.warning("%s: nothing there any more; MLflow does not get it", where["path"])
        told = [file for file in files if str(file.path) not in known]
        stay = [file for file in told if stays(file.path, policy)]
        for file in told:
            if file not in stay:
                work.append(partial(_upload, client, run, file.path, str(Path(name, file.name).parent)))
        if stay:
            work.append(partial(_refer, client, run, name, stay))
        if policy != "none":
            work.append(partial(_log_tables, client, run, name, files))
    _each(work)


def stays(path: Path, policy: str) -> bool:
    """Whether a file is only referred to. Of the weights, MLflow has the registered model's, from `register`."""
    if policy == "all":
        return False
    kept = WEIGHTS if policy == "winner" else (*WEIGHTS, *ROWS)
    return path.name.endswith(kept) or path.stat().st_size > LARGE_BYTES


def _files(folder: Path, uri: str) -> Iterator[File]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            yield File(path, name, f"{uri.rstrip('/')}/{name}")


def _each(work: Iterable[Callable[[], None]]) -> None:
    """All of it; then raises what the first part that failed raised."""
    refused: list[Exception] = []
    for part in work:
        try:
            part()
        except Exception as error:  # MLflow and the object store raise many kinds
            refused.append(error)
    if refused:
        raise refused[0]


def _upload(client: MlflowClient, run: str, path: Path, at: str | None) -> None:
    with limit(for_file(path.stat().st_size)):
        client.log_artifact(run, str(path), at)


def _refer(client: MlflowClient, run: str, name: str, files: Sequence[File]) -> None:
    client.log_dict(run, {"files": [_reference(file) for file in files]}, f"references/{name}.json")


def _reference(file: File) -> dict[str, Any]:
    size = file.path.stat().st_size
    return {"file": file.name, "uri": file.uri, "bytes": size, "sha256": content_sha256(file.path)}


def _log_tables(client: MlflowClient, run: str, name: str, files: Iterable[File]) -> None:
    """A sample of each table, as `mlflow.log_table` writes it; that would append when an event is told again."""
    logged = []
    for file in files:
        table = sample(file.path) if file.path.name.endswith(TABLES) else None
        if table:
            at = f"tables/{name}/{file.name.replace('/', '-').rpartition('.')[0]}.json"
            client.log_text(run, json.dumps(table, ensure_ascii=False), at)
            logged.append({"path": at, "type": "table"})
    if logged:
        known = json.loads(client.get_run(run).data.tags.get(LOGGED_TABLES, "[]"))
        client.set_tag(run, LOGGED_TABLES, json.dumps([*known, *(one for one in logged if one not in known)]))

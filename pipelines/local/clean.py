"""Disk freed of old runs, and nothing that is still needed.

What a run found stays for good: its verdict, report, scores, logs and journal, which are small. What may go are its
models, Δ and data, all outputs of a task at once, so that Kubeflow's cache sees that they are gone. Kept are the tasks
of the newest runs, and of those that did not finish, wherever they lie: a step that the cache answered has its outputs
in the folder of an older run. Kept, too, are the arms that a version came from which an alias of the registry names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drift.ground.artifacts import read_json
from drift.ground.errors import DataError, ServiceError
from drift.tracking import store
from drift.tracking.models.named import named_sources
from pipelines.local.folders import OVER, TASK_LOG, only_one, store_of
from pipelines.local.past import RECORD, PastRun, link_outputs, past_runs, size, task_folders

CACHE = "cache"
RESULTS = ("gate", "report", "register", "evaluate_vlm", "evaluate_champion", "evaluate_arm")
"""Steps whose outputs stay."""


@dataclass(frozen=True)
class Cleaned:
    """What becomes of one run: how many bytes of it go and stay, and why these stay."""

    run: str
    status: str
    freed_bytes: int
    kept_bytes: int
    why: tuple[str, ...]


def clean(runs: Path, keep: int, *, dry_run: bool = False) -> list[Cleaned]:
    """Free what no kept run needs; of each name the newest ``keep`` finished runs are kept. ``dry_run`` only says what.

    A run whose own MLflow does not answer, as a server that is gone, stays whole. Raises PipelineError while a run is
    at work, ServiceError if the MLflow of this process cannot be asked for its champions; nothing is removed then.
    """
    runs = runs.resolve()
    with contextlib.ExitStack() as held:
        for name in sorted({str(run.folder.state["name"]) for run in past_runs(runs)}):
            held.enter_context(only_one(runs, name))
        known = past_runs(runs)
        whole = _whole(known, keep)
        sources, silent = _ask([run for run in known if run not in whole], store.store_uri(runs))
        whole |= silent
        others = [run for run in known if run not in whole]
        needed = _needed(whole) | _named(others, sources)
        cleaned = [Cleaned(run.name, run.status, 0, size(run.folder.path), (whole[run],)) for run in whole]
        cleaned += [_clean(run, needed, dry_run=dry_run) for run in others]
        if not dry_run:
            _forget(runs / CACHE)
            for run in known:
                link_outputs(run.folder)
    return sorted(cleaned, key=lambda one: [run.name for run in known].index(one.run))


def _whole(known: Sequence[PastRun], keep: int) -> dict[PastRun, str]:
    """The runs that stay as they are, and why."""
    whole, finished = {}, Counter[str]()
    for run in known:
        if run.status not in OVER:
            whole[run] = "unfinished"
        elif run.status == "finished" and finished[run.folder.state["name"]] < keep:
            finished[run.folder.state["name"]] += 1
            whole[run] = f"among the newest {keep} of its name"
    return whole


def _needed(whole: Collection[PastRun]) -> dict[Path, str]:
    """Task folders that kept runs refer to, and which run does."""
    tasks = ((task.folder, run.name) for run in whole for task in run.tasks.values())
    return {folder: f"from the cache of {name}" for folder, name in tasks if folder}


def _ask(others: Collection[PastRun], ours: str) -> tuple[dict[str, str], dict[PastRun, str]]:
    """Where the versions that an alias names came from, and which; and the runs whose registry does not answer.

    Raises ServiceError if ours does not.
    """
    sources: dict[str, str] = {}
    silent: dict[PastRun, str] = {}
    asked: defaultdict[str, list[PastRun]] = defaultdict(list)
    for run in others:
        asked[store_of(run.folder)].append(run)
    for uri, runs in asked.items():
        try:
            sources |= named_sources(sorted({model for run in runs for model in _models(run)}), uri)
        except ServiceError:
            if uri == ours:
                raise
            silent |= dict.fromkeys(runs, f"its MLflow, {store.redact(uri)}, does not answer")
    return sources, silent


def _named(others: Collection[PastRun], sources: Mapping[str, str]) -> dict[Path, str]:
    """Task folders that a registered version came from, and which."""
    folders = [folder for run in others for folder in task_folders(run.folder.path)]
    return {
        folder: why
        for source, why in sources.items()
        for folder in folders
        if Path(source.removeprefix("file://")).is_relative_to(folder)
    }


def _models(run: PastRun) -> list[str]:
    """The registered models that it may have given; none of one that died before its configuration was written."""
    model = run.config.get("register", {}).get("model")
    return [model] if model else []


def _clean(run: PastRun, needed: dict[Path, str], *, dry_run: bool) -> Cleaned:
    before = size(run.folder.path)
    freed, why = 0, Counter[str]()
    for folder in task_folders(run.folder.path):
        if reason := needed.get(folder):
            why[reason] += 1
        elif _step(folder) not in RESULTS:
            freed += sum(_remove(output, dry_run=dry_run) for output in folder.iterdir() if output.name != TASK_LOG)
    if freed and not dry_run:
        run.folder.mark(run.status, cleaned=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S+00:00}")
    reasons = tuple(f"{reason}: {count} task{'s' if count > 1 else ''}" for reason, count in why.items())
    return Cleaned(run.name, run.status, freed, before - freed, (*reasons, "its results"))


def _remove(output: Path, *, dry_run: bool) -> int:
    """Remove a file or folder; its bytes."""
    folder = output.is_dir() and not output.is_symlink()
    freed = size(output) if folder else output.lstat().st_size
    if not dry_run:
        shutil.rmtree(output) if folder else output.unlink()
    return freed


def _step(task: Path) -> str:
    """The step that ended well in the folder; '' of one that did not."""
    try:
        return str(read_json(task / RECORD)["step"])
    except DataError:
        return ""


def _forget(cache: Path) -> None:
    """Remove cache entries whose outputs are gone; Kubeflow would pass over them."""
    for entry in cache.glob("*.json"):
        with contextlib.suppress(DataError):
            if not all(map(os.path.exists, _outputs(read_json(entry)))):
                entry.unlink()


def _outputs(entry: Any) -> Iterator[str]:
    """Every local address in a cache entry."""
    if isinstance(entry, dict):
        if str(entry.get("uri", "")).startswith("/"):
            yield entry["uri"]
        entry = list(entry.values())
    if isinstance(entry, list):
        for inner in entry:
            yield from _outputs(inner)

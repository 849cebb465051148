"""Run folders as runs leave them: tasks with records and outputs, a journal, and Kubeflow's cache over them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from kfp import dsl
from kfp.local.cache import LocalCache

from drift.ground.artifacts import write_json
from drift.tracking.telling.journal import append, step_key
from pipelines.local.folders import RunFolder, create_run

ARMS = ("sft", "drift")
WEIGHTS = b"w" * 50_000


def task_folder(run: Path, step: str, arm: str = "") -> Path:
    """Where Kubeflow's local runner puts a task."""
    where = f"for-loop-2-iteration-{ARMS.index(arm)}/" if arm else ""
    return run / "tasks" / f"{where}{step.replace('_', '-')}"


def past_run(
    runs: Path,
    *,
    name: str = "mini",
    started: str,
    cached: Iterable[tuple[RunFolder, str, str]] = (),
    status: str = "finished",
    model: str = "drift-mini",
) -> RunFolder:
    """A run of two arms that ended; ``cached``: tasks, as run, step and arm, that an earlier run had done."""
    made = create_run(runs, f"{name}-{started[11:13]}", "abc")
    run = replace(made, state={**made.state, "name": name, "started": started}).mark(status)
    (run.path / "config.yaml").write_text(yaml.safe_dump({"seed": started[11:13], "register": {"model": model}}))
    taken = {(step, arm): earlier for earlier, step, arm in cached}
    for step, arm in [("curate", ""), *((step, arm) for arm in ARMS for step in ("arm", "evaluate_arm")), ("gate", "")]:
        if (step, arm) in taken:
            upstream = step_key(taken[step, arm].run_id, step, arm)
            _tell(run, step, arm, event="cached", upstream=upstream)
        else:
            do_step(runs / "cache", run, step, arm)
    return run


def _tell(run: RunFolder, step: str, arm: str, **content: object) -> None:
    append(
        run.path,
        {"key": step_key(run.run_id, step, arm), "step": step, "arm": arm, "seconds": 2.0, **content} | {"time": 0},
    )


def do_step(cache: Path, run: RunFolder, step: str, arm: str) -> None:
    """One task of a run: its folder, its journal and its place in the cache."""
    folder = task_folder(run.path, step, arm)
    output = folder / {"arm": "model", "evaluate_arm": "scores", "gate": "gate"}.get(step, "training_set")
    output.mkdir(parents=True)
    (output / "weights").write_bytes(WEIGHTS)
    if step == "gate":
        write_json(output / "gate.json", {"candidate": "drift", "passed": True})
    (folder / "log.txt").write_text("said")
    key = _end(run, step, arm)
    LocalCache(str(cache)).put(key.replace("/", "-"), {"out": dsl.Artifact(uri=str(output))})


def _end(run: RunFolder, step: str, arm: str) -> str:
    """Record that a task ended well; its key."""
    key = step_key(run.run_id, step, arm)
    write_json(task_folder(run.path, step, arm) / "metrics", {"step": step, "arm": arm, "key": key, "seconds": 2.0})
    _tell(run, step, arm, event="ended", status="FINISHED")
    return key


def measured_run(runs: Path, outputs: Mapping[tuple[str, str], Mapping[str, Path]]) -> RunFolder:
    """A run that finished, with copies of the given outputs of its tasks, by step and arm."""
    runs.mkdir()
    run = create_run(runs, "measured", "abc").mark("finished")
    for (step, arm), made in outputs.items():
        for name, folder in made.items():
            shutil.copytree(folder, task_folder(run.path, step, arm) / name)
        _end(run, step, arm)
    return run


def still_cached(runs: Path, run: RunFolder, step: str, arm: str = "") -> bool:
    """Whether Kubeflow's own cache would answer the task."""
    return LocalCache(str(runs / "cache")).get(step_key(run.run_id, step, arm).replace("/", "-")) is not None

"""Past runs as tables, and what a cleaning frees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from drift.cli.options import about_runs
from drift.cli.run_view import show_places, show_result
from drift.cli.show import show_json, show_pairs, show_table, show_text
from drift.config.catalog import ROLES

if TYPE_CHECKING:
    from pipelines.local.clean import Cleaned
    from pipelines.local.difference import Difference
    from pipelines.local.past import PastRun

BOTH = ("first", "second")


def show_runs(known: Sequence[PastRun], as_json: bool) -> None:
    """A row per run: the candidate's numbers, and the version that it gave."""
    rows = [_row(run) for run in known]
    if as_json:
        show_json(json.dumps(rows))
        return
    heads = ("run", "ended", "took", "reas.", "perc.", "ver.", "disk")
    show_table(heads, [_cells(row) for row in rows], right=heads[2:]) if rows else show_text("no runs yet")


def _cells(row: Mapping[str, Any]) -> list[str]:
    means = ("" if row[role] is None else f"{row[role]:.1f}" for role in ROLES)
    ended = row["gate"] if row["status"] == "finished" else row["status"]
    return [row["run"], ended, duration(row["seconds"]), *means, str(row["version"] or ""), amount(row["bytes"])]


def _row(run: PastRun) -> dict[str, Any]:
    from pipelines.local.difference import verdict
    from pipelines.local.past import size

    scored = {row["label"]: row for row in run.summary["rows"]} if run.summary else {}
    candidate = scored.get(run.summary["candidate"]) if run.summary else None
    made = run.registered
    return {
        "run": run.name,
        "name": run.folder.state["name"],
        "status": run.status,
        "started": run.folder.state["started"],
        "seconds": run.seconds(),
        "gate": verdict(run),
        "reasoning": candidate["reasoning"]["mean"] if candidate else None,
        "perception": candidate["perception"]["mean"] if candidate else None,
        "model": made["model"] if made else None,
        "version": made["version"] if made else None,
        "cleaned": run.folder.state.get("cleaned"),
        "bytes": size(run.folder.path),
        "mlflow": run.folder.state.get("mlflow", ""),
        "not_in_mlflow": run.missing,
    }


def show_past(run: PastRun, as_json: bool) -> None:
    """What the run found, or how far it came; its steps, and the folders of its arms."""
    result = run.result()
    if as_json:
        found = {"run": _row(run), "steps": _steps(run), "arms": _arms(run)}
        show_json(json.dumps(found | ({"gate": result.gate, "summary": result.summary} if result else {})))
        return
    steps = [[step["step"], f"{step['seconds']:.1f}", step["from"]] for step in _steps(run)]
    show_table(("step", "seconds", "from"), steps, right=("seconds",))
    arms = {f"{kind} of {name}": place for name, places in _arms(run).items() for kind, place in places.items()}
    show_pairs(arms.items())
    if result:
        show_result(result, False)
    else:
        _show_unfinished(run)


def _show_unfinished(run: PastRun) -> None:
    """How far a run came that has no report, and why."""
    places = {
        "run": str(run.folder.path),
        "MLflow": run.folder.state.get("mlflow") or about_runs("drift ui", run.folder.path.parent),
        "tracking": run.missing or "complete",
        "status": f"{run.status}: {run.failure}" if run.failure else run.status,
    }
    show_places(places)


def _steps(run: PastRun) -> list[dict[str, Any]]:
    tasks = run.tasks.values()
    return [
        {
            "step": f"{task.step} {task.arm}".strip(),
            "seconds": task.seconds,
            "cached": task.cached,
            "from": run.origin(task),
        }
        for task in tasks
    ]


def _arms(run: PastRun) -> dict[str, dict[str, str]]:
    """Where the model and the scores of each arm are: by the links in the run's folder, where it has them."""
    return {
        name: {kind: str(link if link.exists() else place) for kind, (link, place) in links.items() if place}
        for name, links in run.links().items()
    }


def show_difference(found: Difference, as_json: bool) -> None:
    """Keys that differ, then percent right of every model in both."""
    if as_json:
        scores = [{"model": model, "role": role, "percent": pair} for (model, role), pair in found.scores.items()]
        show_json(json.dumps(asdict(found) | {"scores": scores}))
        return
    keys = [[key, *values] for key, values in found.config.items()]
    show_table(("configuration", *BOTH), keys or [["no key differs", "", ""]])
    heads = ("percent right", "", *BOTH, "change")
    show_table(heads, _scores(found.scores), right=heads[2:])
    for which, name, verdict in zip(BOTH, found.runs, found.verdicts, strict=True):
        show_text(f"{which:<17} {name}: {verdict or 'the gate was not reached'}")


def _scores(scores: Mapping[tuple[str, str], tuple[float | None, float | None]]) -> list[list[str]]:
    rows = []
    for (model, role), (before, after) in scores.items():
        change = f"{after - before:+.1f}" if before is not None and after is not None else ""
        rows.append([model, role, *("" if one is None else f"{one:.1f}" for one in (before, after)), change])
    return rows


def show_cleaned(cleaned: Sequence[Cleaned], *, dry_run: bool, as_json: bool) -> None:
    """What goes and stays of every run, and why it stays."""
    freed = sum(one.freed_bytes for one in cleaned)
    if as_json:
        show_json(json.dumps({"freed_bytes": freed, "dry_run": dry_run, "runs": [asdict(one) for one in cleaned]}))
        return
    rows = [[one.run, amount(one.freed_bytes), amount(one.kept_bytes), "\n".join(one.why)] for one in cleaned]
    show_table(("run", "freed", "kept", "why it is kept"), rows, right=("freed", "kept"))
    show_text(f"{amount(freed)} {'would be' if dry_run else 'were'} freed")


def amount(count: int) -> str:
    """Bytes as a person reads them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"

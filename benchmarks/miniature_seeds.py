"""The miniature world on fresh seeds: does the effect hold where the recipe was not chosen?

For each seed: build the model family from scratch, run the whole chain on it with `drift run`, and collect the
closing table. Writes one JSON file with everything and one Markdown table beside it; the README shows the table.

    .venv/bin/python benchmarks/miniature_seeds.py --seeds 2 3 4 5 6 7
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DRIFT = [sys.executable, "-c", "from drift.cli import main; main()"]
MAX_LOSS = 5.0
"""Points of perception that the drift arm may lose to the unmodified VLM."""


def main() -> None:
    """Build, run and collect; seeds that are there already are not done again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "seeds", help="worlds and runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("override", nargs="*", help="overrides of the configuration, key=value")
    arguments = parser.parse_args()
    runs = {seed: run_seed(seed, arguments.work.resolve(), arguments.override) for seed in arguments.seeds}
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = arguments.out / f"miniature_seeds-{datetime.now(UTC):%Y-%m-%d}"
    table = as_markdown(runs)
    name.with_suffix(".json").write_text(json.dumps({**circumstances(arguments), "runs": runs}, indent=1) + "\n")
    name.with_suffix(".md").write_text(table)
    sys.stdout.write(table)


def run_seed(seed: int, work: Path, overrides: list[str]) -> dict[str, Any]:
    """The summary of one seed's run."""
    world = work / f"world-{seed}"
    if not world.exists():
        command("miniature", "build", "--seed", str(seed), "--out", str(world))
    paths = {
        "models.vlm": "vlm",
        "models.expert": "expert",
        "models.base": "base",
        "generate.teacher.model": "teacher",
        "ingest.source": "pool.parquet",
        "curate.replay.source": "replay.parquet",
        "evaluate.data": "benchmarks",
    }
    settings = [f"{key}={world / place}" for key, place in paths.items()]
    run = json.loads(
        command("run", "--json", *settings, f"runs={work / 'runs'}", f"seed={seed}", f"name=seed-{seed}", *overrides)
    )
    return {"summary": run["summary"], "seconds": sum(step["seconds"] for step in run["steps"])}


def command(*arguments: str) -> str:
    """Standard output of a `drift` command; its progress goes to the terminal."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(
        [*DRIFT, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def as_markdown(runs: dict[int, dict[str, Any]]) -> str:
    """Means over the seeds, and what each seed says."""
    summaries = {seed: run["summary"] for seed, run in runs.items()}
    labels = [row["label"] for row in next(iter(summaries.values()))["rows"]]
    lines = [
        "| model | reasoning | perception | perception against the VLM | projection on its expert |",
        "|---|---|---|---|---|",
    ]
    for label in labels:
        rows = [row for summary in summaries.values() for row in summary["rows"] if row["label"] == label]
        cells = [spread([row[role]["mean"] for row in rows]) for role in ("reasoning", "perception")]
        losses = [row["perception_difference"] for row in rows if row["perception_difference"] is not None]
        projections = [row["projection"]["paper"] for row in rows if "paper" in row["projection"]]
        lines.append(f"| {label} | {' | '.join(cells)} | {spread(losses)} | {spread(projections, 2)} |")
    return "\n".join([*lines, "", *per_seed(summaries, labels), "", verdict(summaries)]) + "\n"


def per_seed(summaries: dict[int, dict[str, Any]], labels: list[str]) -> list[str]:
    """Reasoning; perception of every model on every seed."""
    lines = [f"| seed | {' | '.join(labels)} | gate |", "|---" * (len(labels) + 2) + "|"]
    for seed, summary in summaries.items():
        cells = [f"{row['reasoning']['mean']:.1f}; {row['perception']['mean']:.1f}" for row in summary["rows"]]
        lines.append(f"| {seed} | {' | '.join(cells)} | {'passed' if summary['passed'] else 'refused'} |")
    return lines


def verdict(summaries: dict[int, dict[str, Any]]) -> str:
    """How often the drift arm beats SFT on reasoning and keeps perception; what beats it."""
    rows = [{row["label"]: row for row in summary["rows"]} for summary in summaries.values()]
    held = [
        row["drift"]["reasoning"]["mean"] > row["sft"]["reasoning"]["mean"]
        and row["drift"]["perception_difference"] >= -MAX_LOSS
        for row in rows
    ]
    better = {
        label: sum(row[label]["reasoning"]["mean"] > row["drift"]["reasoning"]["mean"] for row in rows)
        for label in rows[0]
        if label != "drift"
    }
    beaten = ", ".join(f"{label} on {count}" for label, count in better.items() if count) or "nothing"
    return (
        f"`drift` beats `sft` on reasoning and loses at most {MAX_LOSS:.0f} points of perception to the VLM on"
        f" {sum(held)} of {len(held)} seeds. Better than `drift` on reasoning: {beaten} of {len(held)}."
    )


def spread(values: list[float], digits: int = 1) -> str:
    """Mean ± sample standard deviation; a dash where there is nothing."""
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """When, on what, with which code."""
    seeds = map(str, arguments.seeds)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "commit": commit.stdout.strip() or None,
        "command": " ".join(["python benchmarks/miniature_seeds.py --seeds", *seeds, *arguments.override]),
    }


if __name__ == "__main__":
    main()

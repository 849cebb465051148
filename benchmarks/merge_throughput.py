"""Merges of models of 5 GB each, beside `cp` and mergekit on the same work: time, CPU and anonymous memory.

Throughput is per byte that the work must move: every model read once, one written. mergekit cannot merge a text model
into a multimodal one, so both sides are text models here. Its TIES elects signs after weighting: the same work, not
the same numbers.

    .venv/bin/python benchmarks/merge_throughput.py --mergekit .mergekit/bin/mergekit-yaml
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from contest import Run, arguments_of, run, size_bytes, table, write_model, write_results

SEEDS = {"base": None, "expert": 1, "vlm": 2}


def main() -> None:
    """Write the models once, run every contestant `--repeat` times in turn, and keep each one's median."""
    arguments = arguments_of(__doc__ or "")
    work = arguments.work.resolve()
    models = {name: write_model(work / name, arguments.layers, seed) for name, seed in SEEDS.items()}
    contestants = list(_contestants(models, work, arguments.mergekit, arguments.cold))
    runs = [contestant() for _ in range(arguments.repeat) for contestant in contestants]
    write_results("merge_throughput", runs, table(runs, "drift ties"), arguments)


def _contestants(models: dict[str, Path], work: Path, mergekit: Path | None, cold: bool) -> Iterator[Callable[[], Run]]:
    out, size = work / "out", size_bytes(models["vlm"])
    drift = [sys.executable, "-c", "from drift.cli import main; main()", "merge", "--force", "--out", str(out)]
    drift += [part for name, path in models.items() for part in (f"--{name}", str(path))]
    commands = {
        "cp": (["cp", "-r", str(models["vlm"]), str(out)], 2),
        "drift linear": ([*drift, "--method", "linear"], 3),
        "drift ties": ([*drift, "--method", "ties"], 4),
    }
    if mergekit:
        commands["mergekit linear"] = (_mergekit(mergekit, "linear", models, work), 3)
        commands["mergekit ties"] = (_mergekit(mergekit, "ties", models, work), 4)
    for name, (command, moved) in commands.items():
        inputs = [models["vlm"]] if moved == 2 else [models[name] for name in ("vlm", "expert", "base")[: moved - 1]]
        yield functools.partial(run, name, command, inputs=inputs, out=out, moved_bytes=moved * size, cold=cold)


def _mergekit(program: Path, method: str, models: dict[str, Path], work: Path) -> list[str]:
    weights = {"vlm": 0.9, "expert": 0.1}
    chosen = [
        {"model": str(models[name]), "parameters": {"weight": weight, **({"density": 0.2} if method == "ties" else {})}}
        for name, weight in weights.items()
    ]
    recipe = {"merge_method": method, "models": chosen, "parameters": {"normalize": False}, "dtype": "bfloat16"}
    if method == "ties":
        recipe["base_model"] = str(models["base"])
    file = work / f"mergekit-{method}.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    return [str(program), str(file), str(work / "out"), "--no-copy-tokenizer"]


if __name__ == "__main__":
    main()

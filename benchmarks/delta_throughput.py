"""Δ of two models of 5 GB each, beside `cp` and mergekit on the same work: time, CPU and anonymous memory.

`drift, bytes only` reads, subtracts and writes with the library's own streams and nothing else; with
statistics it sums as well; `drift` is the whole
command, with statistics, the check for a common base, and the hashes of both models in the provenance. Throughput is
per byte that the work must move: two models read and one written, for `cp` one and one. `drift, one vector` does
next to nothing: what it takes is the start of Python and torch, which the rates `beyond start-up` leave out.

    .venv/bin/python benchmarks/delta_throughput.py --mergekit .mergekit/bin/mergekit-yaml
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from contest import Run, arguments_of, run, size_bytes, table, write_model, write_results

from drift.weights.storage.checkpoints import Checkpoint

EVERYTHING = "re:."
BYTES_ONLY = """
import sys
from drift.config import DeltaConfig
from pathlib import Path
from drift.weights.delta.delta import part_sums
from drift.weights.delta.stretches import parts
from drift.weights.pairing import plan
from drift.weights.storage.streaming import created, encode_header, one_thread, write_tensor

expert, vlm, modules, statistics, out = sys.argv[1:]
todo = plan(DeltaConfig(modules=modules.split(","), force=True), expert=expert, vlm=vlm, base=None)
header = encode_header({s.name: (s.dtype, s.shape) for s in todo.sources}, {})
with one_thread(), created(Path(out), len(header) + todo.size_bytes) as stream:
    stream.write(header)
    for source in todo.sources:
        for delta, vlm, pairs in parts(todo, source):
            write_tensor(stream, delta)
            if statistics == "statistics":
                part_sums(delta, vlm, pairs)
"""


def main() -> None:
    """Write the models once, run every contestant `--repeat` times in turn, and keep each one's median."""
    arguments = arguments_of(__doc__ or "")
    work = arguments.work.resolve()
    expert, vlm = (write_model(work / name, arguments.layers, seed) for name, seed in (("expert", 1), ("vlm", 2)))
    contestants = list(_contestants(expert, vlm, work, arguments))
    runs = [contestant() for _ in range(arguments.repeat) for contestant in contestants]
    write_results("delta_throughput", runs, table(runs, "drift", start_up="drift, one vector"), arguments)


def _contestants(expert: Path, vlm: Path, work: Path, arguments: argparse.Namespace) -> Iterator[Callable[[], Run]]:
    out = work / "out"
    size, attention = size_bytes(vlm), attention_bytes(vlm)
    models = ["--expert", str(expert), "--vlm", str(vlm), "--force"]  # text models both
    drift = [sys.executable, "-c", "from drift.cli import main; main()", "delta", *models, "--out", str(out)]
    bare = [sys.executable, "-c", BYTES_ONLY, str(expert), str(vlm)]
    commands = {
        "drift, one vector": ([*bare, "re:^norm", "none", str(out)], 0),
        "cp": (["cp", "-r", str(vlm), str(out)], 2 * size),
        "drift, bytes only": ([*bare, EVERYTHING, "none", str(out)], 3 * size),
        "drift, bytes and statistics": ([*bare, EVERYTHING, "statistics", str(out)], 3 * size),
        "drift": ([*drift, "--modules", EVERYTHING], 3 * size),
        "drift, bytes only, attention": ([*bare, "attn", "none", str(out)], 3 * attention),
        "drift, attention": ([*drift, "--modules", "attn"], 3 * attention),
    }
    if arguments.mergekit:
        commands["mergekit"] = (_mergekit(arguments.mergekit, expert, vlm, work, out), 3 * size)
    for name, (command, moved) in commands.items():
        yield functools.partial(
            run, name, command, inputs=[expert, vlm], out=out, moved_bytes=moved, cold=arguments.cold
        )


def _mergekit(program: Path, expert: Path, vlm: Path, work: Path, out: Path) -> list[str]:
    """expert − vlm as mergekit's `linear` with weights 1 and −1."""
    models = [{"model": str(model), "parameters": {"weight": weight}} for model, weight in ((expert, 1), (vlm, -1))]
    recipe = {"models": models, "merge_method": "linear", "parameters": {"normalize": False}, "dtype": "bfloat16"}
    (work / "mergekit.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return [str(program), str(work / "mergekit.yaml"), str(out), "--no-copy-tokenizer"]


def attention_bytes(model: Path) -> int:
    """Bytes of the attention's tensors, by the headers."""
    tensors = Checkpoint(model).tensors
    return sum(info.size_bytes for name, info in tensors.items() if ".self_attn." in name)


if __name__ == "__main__":
    main()

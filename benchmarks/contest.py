"""What the benchmarks of streaming share: models of a real shape with random weights, and contestants measured alike.

Every contestant is a process of its own that is done when its output is on the disk. Measured are wall seconds, CPU
seconds of the process and its children, and the peak of its anonymous memory (RssAnon): what it needs, without the
pages of files it has read, which the kernel may drop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from drift.weights.storage.streaming import encode_header, tensor_generator, write_tensor

ROOT = Path(__file__).parent.parent
HIDDEN, INTERMEDIATE, HEADS, KEY_VALUE_HEADS, VOCABULARY = 3584, 18944, 28, 4, 8192
"""Qwen2.5-7B; a small vocabulary, since embeddings are not what is measured."""
SHARD_LAYERS = 4
SPREAD, CHANGE = 0.02, 0.3


# --------------------------------------------------------------------------------------------- models


def write_model(path: Path, layers: int, seed: int | None) -> Path:
    """A text model in bfloat16, in shards: the base of all (`seed` None), or a fine-tune of it."""
    if (path / "config.json").exists():
        return path
    path.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    groups = [
        _outside_layers(),
        *(_layers(range(at, min(at + SHARD_LAYERS, layers))) for at in range(0, layers, SHARD_LAYERS)),
    ]
    for number, shapes in enumerate(groups, 1):
        shard = f"model-{number:05}-of-{len(groups):05}.safetensors"
        weight_map |= dict.fromkeys(shapes, shard)
        with (path / shard).open("wb") as stream:
            stream.write(encode_header({name: (torch.bfloat16, shape) for name, shape in shapes.items()}, {}))
            for name, shape in shapes.items():
                write_tensor(stream, _tensor(name, shape, seed))
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "config.json").write_text(json.dumps(_config(layers)))
    return path


def _outside_layers() -> dict[str, tuple[int, ...]]:
    table = (VOCABULARY, HIDDEN)
    return {"model.embed_tokens.weight": table, "model.norm.weight": (HIDDEN,), "lm_head.weight": table}


def _layers(indices: Iterable[int]) -> dict[str, tuple[int, ...]]:
    narrow = HIDDEN // HEADS * KEY_VALUE_HEADS
    one: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "self_attn.q_proj.bias": (HIDDEN,),
        "self_attn.k_proj.weight": (narrow, HIDDEN),
        "self_attn.k_proj.bias": (narrow,),
        "self_attn.v_proj.weight": (narrow, HIDDEN),
        "self_attn.v_proj.bias": (narrow,),
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    return {f"model.layers.{index}.{name}": shape for index in indices for name, shape in one.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int | None) -> torch.Tensor:
    tensor = SPREAD * torch.randn(shape, generator=tensor_generator(0, name))
    if seed is not None:
        tensor += CHANGE * SPREAD * torch.randn(shape, generator=tensor_generator(seed, name))
    return tensor.bfloat16()


def _config(layers: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


# ----------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Run:
    """One contestant once; `moved_bytes`: what the work has to read and write at least."""

    contestant: str
    wall_seconds: float
    cpu_seconds: float
    peak_anonymous_mb: float
    moved_bytes: int

    @property
    def bytes_per_second(self) -> float:
        """Throughput per byte that the work has to move."""
        return self.moved_bytes / self.wall_seconds


def run(
    contestant: str, command: Sequence[str], *, inputs: Sequence[Path], out: Path, moved_bytes: int, cold: bool
) -> Run:
    """Run a command until its output is on the disk, and delete the output; `cold`: inputs out of the page cache."""
    for path in inputs:
        evict(path) if cold else warm(path)
    subprocess.run(["rm", "-rf", str(out)], check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started, before = time.monotonic(), os.times()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, anonymous_mb(process.pid))
        time.sleep(0.01)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"{contestant}: {process.stderr.read().decode()[-2000:]}")
    flush(out)
    wall, after = time.monotonic() - started, os.times()
    subprocess.run(["rm", "-rf", str(out)], check=True)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    result = Run(contestant, wall, cpu, peak, moved_bytes)
    sys.stderr.write(f"{contestant}: {wall:.1f} s, CPU {cpu:.1f} s, {peak:.0f} MB\n")
    return result


def medians(runs: Sequence[Run]) -> Run:
    """The median of each measure over the runs of one contestant."""
    first = runs[0]
    values = {
        name: statistics.median(getattr(one, name) for one in runs)
        for name in ("wall_seconds", "cpu_seconds", "peak_anonymous_mb")
    }
    return Run(first.contestant, moved_bytes=first.moved_bytes, **values)


def evict(path: Path) -> None:
    """Drop the pages of all files below `path` from the page cache."""
    for file in files(path):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(path: Path) -> None:
    """Bring all files below `path` into the page cache."""
    room = bytearray(1 << 20)
    for file in files(path):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(room):
                pass


def flush(path: Path) -> None:
    """Write all files below `path` to the disk."""
    for file in files(path):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def files(path: Path) -> list[Path]:
    """The file itself, or all files below a folder."""
    return [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]


def size_bytes(path: Path) -> int:
    """Of all files below `path`."""
    return sum(file.stat().st_size for file in files(path))


def anonymous_mb(pid: int) -> float:
    """RssAnon of a process and its children now, in 10⁶ bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return (int(found[1]) * 1.024e-3 if found else 0.0) + sum(anonymous_mb(int(child)) for child in children)


# ------------------------------------------------------------------------------------------- results


def arguments_of(description: str) -> argparse.Namespace:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--layers", type=int, default=11, help="decoder layers of Qwen2.5-7B's shape, 0.47 GB each")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmark", help="models and outputs")
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml, from an environment that has mergekit 0.1.5")
    parser.add_argument("--cold", action="store_true", help="start with the models out of the page cache")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def table(runs: list[Run], ours: str, start_up: str = "") -> str:
    """Medians by contestant, and their ratios to `cp` and to `ours`; `start_up`: a run of ours that does nothing."""
    names = list(dict.fromkeys(one.contestant for one in runs))
    median = {name: medians([one for one in runs if one.contestant == name]) for name in names}
    heads = ["contestant", "wall s", "CPU s", "peak anonymous MB", "GB/s moved", "of cp's", f"wall, of {ours}'s"]
    heads += ["of cp's, beyond start-up"] if start_up else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, one in median.items():
        of_cp = one.bytes_per_second / median["cp"].bytes_per_second
        of_ours = one.wall_seconds / median[ours].wall_seconds
        lines.append(
            f"| {name} | {one.wall_seconds:.1f} | {one.cpu_seconds:.1f} | {one.peak_anonymous_mb:.0f}"
            f" | {one.bytes_per_second / 1e9:.2f} | {of_cp:.2f} | {of_ours:.2f} |"
        )
        if start_up:
            rest = one.wall_seconds - median[start_up].wall_seconds if name.startswith("drift") else one.wall_seconds
            of_cp = one.moved_bytes / rest / median["cp"].bytes_per_second if rest > 0 else 0.0
            lines[-1] += f" {of_cp:.2f} |"
    return "\n".join(lines) + "\n"


def write_results(name: str, runs: Sequence[Run], table: str, arguments: argparse.Namespace) -> None:
    """A JSON file with everything and a Markdown table beside it, dated."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "commit": (commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")) or None,
        "command": f"python benchmarks/{name}.py --layers {arguments.layers} --repeat {arguments.repeat}"
        + (" --cold" if arguments.cold else "")
        + (" --mergekit mergekit-yaml" if arguments.mergekit else ""),
        "runs": [asdict(one) for one in runs],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"{name}-{datetime.now(UTC):%Y-%m-%d}"
    file.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    heading = f"`{content['command']}`, commit `{str(content['commit'])[:7]}`, {content['machine']}\n\n"
    file.with_suffix(".md").write_text(heading + table)
    sys.stdout.write(table)

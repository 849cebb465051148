"""What the prior costs: the time of a training step with it, relative to a plain one, beside the released code's hook.

All variants train one and the same model in turn, round after round (two models would differ by where they lie in
memory); a ratio is of their quickest steps, which other work on the machine has disturbed least. The model is a text
decoder with AdamW, as prior and hook see it; on a GPU its layers have the shapes of Qwen2.5-7B.

    python -m benchmarks.prior_overhead                      # CPU
    python -m benchmarks.prior_overhead --device cuda        # Qwen2.5-7B layers in bf16 autocast
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks import reference_hook
from benchmarks.dated import commit, write_dated
from drift.config.models import DeltaConfig
from drift.config.train import PriorConfig
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu
from drift.prior.prior import Prior
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import DeltaFile, load_delta
from drift.weights.naming.layout import match_parameters

allow_cuda_torchvision_on_cpu()
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402

SHAPES = {
    "cpu": {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 2},
    "cuda": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
}
SELECTIONS = {"attn": ("attn",), "attn+mlp": ("attn", "mlp")}


Batch = Mapping[str, torch.Tensor]
"""A micro-batch: the arguments of the model."""


class Plain:
    """Nothing is attached to the model."""

    name = "plain"
    memory = 0

    def attach(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Do nothing."""

    def guide(self) -> None:
        """Do nothing."""

    def detach(self) -> None:
        """Do nothing."""


class WithPrior(Plain):
    """This project's prior, once per optimizer step. `memory` is what it keeps of Δ, in bytes."""

    name = "prior"

    def __init__(self, delta: DeltaFile) -> None:
        self._prior = Prior(PriorConfig(), delta)

    def attach(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Bind the prior."""
        self.memory = self._prior.bind(model, optimizer).bytes

    def guide(self) -> None:
        """Before clipping."""
        self._prior.guide()

    def detach(self) -> None:
        """Unbind it."""
        self._prior.unbind()


class WithHook(Plain):
    """The released code's hook, at every backward pass."""

    name = "released code's hook"

    def __init__(self, delta: DeltaFile) -> None:
        self._delta = delta

    def attach(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Hook every parameter that Δ has a tensor for."""
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        pairs = match_parameters(shapes, self._delta.shapes)
        deltas = {own: self._delta.tensor(name) for name, own in pairs.items()}
        self.memory = sum(tensor.numel() * tensor.element_size() for tensor in deltas.values())
        self._handles = reference_hook.attach(model, deltas)

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row per selection, accumulation and variant. All variants train one and the same model, in turn."""
    vlm, expert = _checkpoints(options, folder)
    model = Qwen2ForCausalLM.from_pretrained(vlm, dtype="float32").to(options.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    rows = []
    for selection, modules in SELECTIONS.items():
        out = folder / selection
        compute_delta(DeltaConfig(modules=modules), expert=str(expert), vlm=str(vlm), base=None, out=out)
        variants = [Plain(), WithPrior(load_delta(out)), WithHook(load_delta(out))]
        for accumulation in options.accumulation:
            rows += _rows(variants, selection, accumulation, model, optimizer, options)
    return rows


def _rows(
    variants: list[Plain],
    selection: str,
    accumulation: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    tokens = torch.randint(3, 500, (1, options.tokens), device=options.device)
    batches = [{"input_ids": tokens, "labels": tokens}] * accumulation
    seconds: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in variants}
    for turn in tqdm(range(options.rounds), f"{selection}, accumulation {accumulation}"):
        for variant in variants[turn % 3 :] + variants[: turn % 3]:
            variant.attach(model, optimizer)
            steps = [step(variant, model, optimizer, batches, options.device) for _ in range(3)]
            seconds[variant.name] += steps[1:]  # the first finds cold caches
            variant.detach()
    quickest = {name: [min(one[clock] for one in steps) for clock in (0, 1)] for name, steps in seconds.items()}
    return [
        {
            "selection": selection,
            "accumulation": accumulation,
            "variant": variant.name,
            "step_seconds": quickest[variant.name][0],
            "wall_ratio": quickest[variant.name][0] / quickest["plain"][0],
            "cpu_ratio": quickest[variant.name][1] / quickest["plain"][1],
            "delta_mebibytes": variant.memory / 2**20,
        }
        for variant in variants
    ]


def step(
    variant: Plain, model: Any, optimizer: torch.optim.Optimizer, batches: Sequence[Batch], device: str
) -> tuple[float, float]:
    """(wall, CPU) seconds of one optimizer step over its micro-batches; on a GPU in bf16 autocast."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model(**batch).loss / len(batches)
        loss.backward()
    variant.guide()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _checkpoints(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Two models of one base: random weights, and the same with noise."""
    torch.manual_seed(0)
    shapes = {"num_hidden_layers": options.layers, "vocab_size": 512, "tie_word_embeddings": False}
    return save_pair(Qwen2ForCausalLM(Qwen2Config(**SHAPES[options.device], **shapes)), folder, torch.float32)


def save_pair(model: Any, folder: Path, dtype: torch.dtype) -> tuple[Path, Path]:
    """Save a model as it is, and as an expert: with noise of 0.3 times the spread that weights start with."""
    state = model.state_dict()
    model.save_pretrained(folder / "vlm", state_dict={name: weight.to(dtype) for name, weight in state.items()})
    moved = {name: (weight + 0.3 * 0.02 * torch.randn_like(weight)).to(dtype) for name, weight in state.items()}
    model.save_pretrained(folder / "expert", state_dict=moved)
    return folder / "vlm", folder / "expert"


def synchronize(device: str) -> None:
    """Wait until the device has done what it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def _machine(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure, print the table, and write the dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SHAPES, default="cpu")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="length of the one sequence of a micro-batch")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--accumulation", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path, help="folder for the dated JSON; default: print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    table = Table("selection", "accumulation", "variant", "step, s", "wall ratio", "CPU ratio", "Δ kept, MiB")
    for row in rows:
        numbers = [f"{row['step_seconds']:.3f}", f"{row['wall_ratio']:.3f}", f"{row['cpu_ratio']:.3f}"]
        kept = f"{row['delta_mebibytes']:.1f}"
        table.add_row(row["selection"], str(row["accumulation"]), row["variant"], *numbers, kept)
    Console(width=110).print(table)
    if options.out:
        _write(options, rows)


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    content = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": _machine(options.device),
        "torch": torch.__version__,
        "settings": settings,
        "rows": rows,
    }
    Console().print(f"written: {write_dated(f'prior_overhead_{options.device}', content, options.out)}")


if __name__ == "__main__":
    main()

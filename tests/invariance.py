"""The same three steps in every backend: what two ranks do in one process group, and the table of how far they differ.

`make invariance` prints the table; `tests/unit/prior/test_prior_ranks.py` asserts on it. A tiny Qwen2.5-VL on text
alone, a global batch of 8 sequences whatever the ranks, accumulation or ZeRO stage, gradients clipped at a norm that
bites. The one-process run without accumulation is what all are compared with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from drift.config.models import DeltaConfig
from drift.config.train import PriorConfig
from drift.prior.prior import Prior
from drift.training.launch import prepare_deepspeed
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import DeltaFile, load_delta
from drift.weights.modeling import load_vlm
from tests.tiny_models import Family, tiny_family

WORLD, BATCH, STEPS, CLIP = 2, 8, 3, 0.5


@dataclass(frozen=True)
class Scenario:
    """One way to train. `backend`: one, ddp, fsdp2, zero0 … zero3; `delta`: which stored Δ, "" for plain SFT."""

    name: str
    backend: str
    accumulation: int = 1
    optimizer: str = "sgd"
    dtype: str = "float32"
    offload: bool = False
    accumulate_in: str | None = None
    delta: str = "paper"
    prior: dict[str, Any] = field(default_factory=dict)
    checkpointing: bool = False
    lora: bool = False
    clip: float = CLIP

    @property
    def world(self) -> int:
        """Ranks that share the batch."""
        return 1 if self.backend == "one" else WORLD


@dataclass
class Result:
    """After `STEPS` steps: how far each weight went, and what the prior said on each rank."""

    weights: dict[str, torch.Tensor]
    moved: dict[str, torch.Tensor]
    elements: list[int]
    bytes: list[int]
    steps: list[int]
    metrics: list[dict[str, float]]


REFERENCE = Scenario("one process", "one")
FLOAT32 = [
    Scenario("one process, accumulation 4", "one", 4),
    Scenario("one process, accumulation 8", "one", 8),
    Scenario("one process, gradient checkpointing", "one", checkpointing=True),
    Scenario("DDP", "ddp"),
    Scenario("DDP, accumulation 2", "ddp", 2),
    Scenario("FSDP2", "fsdp2"),
    Scenario("FSDP2, accumulation 2", "fsdp2", 2),
    *(Scenario(f"ZeRO-{stage}", f"zero{stage}") for stage in range(4)),
    *(Scenario(f"ZeRO-{stage}, accumulation 2", f"zero{stage}", 2) for stage in range(4)),
    *(Scenario(f"ZeRO-{stage}, CPU offload", f"zero{stage}", 2, offload=True) for stage in (1, 2, 3)),
    Scenario("ZeRO-3, gradient checkpointing", "zero3", 2, checkpointing=True),
]
BFLOAT16 = [
    Scenario("one process, bf16", "one", dtype="bfloat16"),
    Scenario("one process, bf16, accumulation 4", "one", 4, dtype="bfloat16"),
    Scenario("ZeRO-0, bf16", "zero0", dtype="bfloat16"),
    Scenario("ZeRO-1, bf16", "zero1", 2, dtype="bfloat16"),
    Scenario("ZeRO-1, bf16, float32 accumulation", "zero1", 2, dtype="bfloat16", accumulate_in="fp32"),
    Scenario("ZeRO-2, bf16", "zero2", 2, dtype="bfloat16"),
    Scenario("ZeRO-3, bf16", "zero3", 2, dtype="bfloat16"),
    Scenario("ZeRO-2, bf16, CPU offload", "zero2", 2, dtype="bfloat16", offload=True),
    Scenario("ZeRO-3, bf16, CPU offload", "zero3", 2, dtype="bfloat16", offload=True),
]
BACKWARD = [
    Scenario("backward: one process", "one", prior={"apply": "backward"}),
    Scenario("backward: one process, accumulation 4", "one", 4, prior={"apply": "backward"}),
    Scenario("backward: DDP, accumulation 2", "ddp", 2, prior={"apply": "backward"}),
    Scenario("backward: ZeRO-2, accumulation 2", "zero2", 2, prior={"apply": "backward"}),
]


def variants(label: str, **changes: Any) -> list[Scenario]:
    """One process and every kind of optimizer layout under `changes`; the first is the others' reference."""
    layouts = [
        REFERENCE,
        *(Scenario(name, name, 2) for name in ("ddp", "fsdp2", "zero0", "zero1", "zero2", "zero3")),
        *(Scenario(f"{name} offload", name, 2, offload=True) for name in ("zero2", "zero3")),
    ]
    return [dataclasses.replace(one, name=f"{label}: {one.name}", **changes) for one in layouts]


GROUPS: dict[str, list[Scenario]] = {
    "float32": [REFERENCE, *FLOAT32],
    "bfloat16": [REFERENCE, *BFLOAT16],
    "backward": [REFERENCE, *BACKWARD],
    "adamw": variants("AdamW", optimizer="adamw"),
    "clip after": variants("clip after", prior={"clip": "after"}),
    "absolute": variants("absolute", prior={"scale": "absolute", "alpha": -0.01}),
    "one tensor": variants("one tensor", delta="narrow"),
    "projection": variants("projection", prior={"schedule": {"kind": "projection", "target": 0.05}}),
    "alpha 0": variants("α = 0", prior={"alpha": 0.0}),
    "plain": variants("plain", delta=""),
    **{form: variants(form, delta=form) for form in ("rank 4", "int8", "fp8")},
    "lora": [one for one in variants("LoRA", lora=True) if one.backend in ("one", "ddp", "zero0", "zero1", "zero2")],
}
"""Scenarios that must agree; the first of each part is what the others are compared with."""
SCENARIOS = {scenario.name: scenario for group in GROUPS.values() for scenario in group}


# ------------------------------------------------------------------------------------------- one rank


def train(scenario: Scenario, family: Family, deltas: dict[str, DeltaFile], device: str = "cpu") -> Result:
    """Run one scenario on this rank; weights and reports of all ranks come back on each."""
    model = _model(scenario, family).to(device)
    before = {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}
    wrapped, optimizer = _wrap(scenario, model)
    prior, report = None, None
    if scenario.delta:
        prior = Prior(PriorConfig(**scenario.prior), deltas[scenario.delta])
        report = prior.bind(wrapped, optimizer)
    for step in range(STEPS):
        _step(scenario, wrapped, optimizer, prior, step)
    after = _weights(scenario, model, optimizer)
    moved = {name: after[name] - before[name] for name in before}
    own = (report.elements, report.bytes, prior.step, prior.metrics()) if prior and report else (0, 0, 0, {})
    if prior:
        prior.unbind()
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, own)
    elements, sizes, steps, metrics = (list(column) for column in zip(*ranks, strict=True))
    return Result(after, moved, elements, sizes, steps, metrics)


def _model(scenario: Scenario, family: Family) -> Any:
    model = load_vlm(family.vlm, dtype="float32").train()
    model.requires_grad_(False)
    if scenario.lora:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(7)
        targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    else:
        model.get_decoder().requires_grad_(True)
        model.lm_head.requires_grad_(True)
    if scenario.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _optimizer(scenario: Scenario, model: Any) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim > 1]}, {"params": [p for p in trained if p.ndim == 1]}]
    present = [group for group in groups if group["params"]]
    if scenario.optimizer == "sgd":
        return torch.optim.SGD(present, lr=0.5)
    # A bias of the keys has no gradient but rounding (softmax does not see it); a larger eps keeps Adam from walking it
    return torch.optim.AdamW(present, lr=1e-3, eps=1e-6, weight_decay=0.0)


def _wrap(scenario: Scenario, model: Any) -> tuple[Any, Any]:
    if scenario.backend == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for layer in model.get_decoder().layers:
            fully_shard(layer)
        fully_shard(model)
    optimizer = _optimizer(scenario, model)
    if scenario.backend == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model), optimizer
    if not scenario.backend.startswith("zero"):
        return model, optimizer
    import deepspeed

    engine, inner, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=_deepspeed_config(scenario))
    return engine, inner


def _deepspeed_config(scenario: Scenario) -> dict[str, Any]:
    stage = int(scenario.backend[-1])
    zero: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": 0}
    if scenario.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    return {
        "train_micro_batch_size_per_gpu": BATCH // WORLD // scenario.accumulation,
        "gradient_accumulation_steps": scenario.accumulation,
        "gradient_clipping": scenario.clip,
        "zero_optimization": zero if stage else {"stage": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": scenario.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": scenario.accumulate_in},
        "steps_per_print": 10**9,
    }


def _step(scenario: Scenario, model: Any, optimizer: Any, prior: Prior | None, step: int) -> None:
    pieces = _own_batch(scenario, step).to(model.device).chunk(scenario.accumulation)
    for place, tokens in enumerate(pieces):
        with _synchronised(scenario, model, place == len(pieces) - 1):
            with _autocast(scenario, tokens.device):
                loss = model(input_ids=tokens, labels=tokens).loss
            if scenario.backend.startswith("zero"):
                model.backward(loss)
                model.step()
            else:
                (loss / len(pieces)).backward()
    if scenario.backend.startswith("zero"):
        return
    if prior:
        prior.guide()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], scenario.clip)
    optimizer.step()
    optimizer.zero_grad()


def _own_batch(scenario: Scenario, step: int) -> torch.Tensor:
    """This rank's rows of the global batch of 8 sequences."""
    tokens = torch.randint(3, 59, (BATCH, 12), generator=torch.Generator().manual_seed(100 + step))
    return tokens.chunk(scenario.world)[dist.get_rank() % scenario.world]


def _autocast(scenario: Scenario, device: torch.device) -> Any:
    """bfloat16 over float32 masters where no DeepSpeed keeps them, as a training does it."""
    asked = scenario.dtype == "bfloat16" and not scenario.backend.startswith("zero")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=asked)


@contextlib.contextmanager
def _synchronised(scenario: Scenario, model: Any, last: bool) -> Iterator[None]:
    """Reduce gradients over the ranks in the last micro-batch only."""
    if scenario.backend == "fsdp2":
        model.set_requires_gradient_sync(last)
    with model.no_sync() if scenario.backend == "ddp" and not last else contextlib.nullcontext():
        yield


def _weights(scenario: Scenario, model: Any, optimizer: Any) -> dict[str, torch.Tensor]:
    """Every trained weight, whole, in float32: the optimizer's masters where it has them."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if scenario.backend in ("zero1", "zero2", "zero3"):
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(p).clone() for name, p in named.items()}
    if scenario.backend == "zero0" and scenario.dtype == "bfloat16":
        groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        masters = {id(own): master for pair in groups for own, master in zip(*pair, strict=True)}
        return {name: masters[id(p)].detach().clone() for name, p in named.items()}
    whole = {name: p.full_tensor() if scenario.backend == "fsdp2" else p for name, p in named.items()}
    return {name: p.detach().float().clone() for name, p in whole.items()}


# ------------------------------------------------------------------------------------------- all ranks


def run_all(
    folder: Path, family: Family | None = None, scenarios: Iterable[Scenario] | None = None
) -> dict[str, Result]:
    """Every scenario, on two ranks that start once; by the scenario's name."""
    if family is None:
        family = tiny_family(folder / "family", dtype=torch.bfloat16)  # as real checkpoints: bf16 starts the same
    for name, config in DELTAS.items():
        compute_delta(config, expert=str(family.expert), vlm=str(family.vlm), base=None, out=folder / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asked = tuple(SCENARIOS.values() if scenarios is None else scenarios)
    torch.multiprocessing.spawn(_rank, (folder, family, asked, port), nprocs=WORLD)
    results: dict[str, Result] = torch.load(folder / "results.pt", weights_only=False)
    return results


DELTAS = {
    "paper": DeltaConfig(),
    "rank 4": DeltaConfig(rank=4),
    "int8": DeltaConfig(dtype="int8"),
    "fp8": DeltaConfig(dtype="float8_e4m3fn"),
    "narrow": DeltaConfig(modules=(r"re:^layers\.0\.self_attn\.q_proj\.weight$",)),
}


def _rank(rank: int, folder: Path, family: Family, scenarios: tuple[Scenario, ...], port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    prepare_deepspeed()
    deltas = {name: load_delta(folder / name) for name in DELTAS}
    gc.freeze()  # DeepSpeed collects garbage at every start of ZeRO-3, over all that was ever imported
    results = {}
    for scenario in scenarios:
        results[scenario.name] = train(scenario, family, deltas)
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


def deviation(result: Result, reference: Result) -> float:
    """‖d − d_reference‖/‖d_reference‖ over all trained weights as one vector; d is how far a weight went."""
    apart = [(result.moved[name] - moved).flatten() for name, moved in reference.moved.items()]
    return float(torch.cat(apart).norm() / torch.cat([d.flatten() for d in reference.moved.values()]).norm())


def worst_tensor(result: Result, reference: Result) -> float:
    """The same of the tensor where it is largest, without what one unit in the last place of the weight explains."""
    ratios = []
    for name, moved in reference.moved.items():
        apart = (result.moved[name] - moved).abs()
        unit = torch.finfo(torch.float32).eps * reference.weights[name].abs()
        ratios.append(torch.where(apart > unit, apart, 0.0).norm() / moved.norm().clamp(min=1e-12))
    return float(torch.stack(ratios).max())


def main() -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    with tempfile.TemporaryDirectory() as folder:
        results = run_all(Path(folder))
    title = f"{STEPS} steps, one global batch: displacement of the weights, relative to the first row of each part"
    table = Table("backend", "all weights", "worst tensor", "projection", "Δ elements per rank", title=title)
    for group in GROUPS.values():
        reference = results[group[0].name]
        for scenario in group:
            result = results[scenario.name]
            apart = [f"{measure(result, reference):.1e}" for measure in (deviation, worst_tensor)]
            elements = " + ".join(f"{count:,}" for count in result.elements[: scenario.world])
            projection = result.metrics[0].get("projection")
            table.add_row(scenario.name, *apart, f"{projection:.5f}" if projection else "", elements)
        table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())

"""What `benchmarks.gpu` measures: a row of JSON per case, as it comes, with its numbers or why it was `not_run`."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import io
import json
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gpu_bench import QWEN_7B, SMALL, Bench, Row, median_of
from benchmarks.prior_overhead import SELECTIONS, Batch, Plain, WithPrior, save_pair
from drift.config.models import DeltaConfig
from drift.ground.errors import cause
from drift.inference.local import LocalModel
from drift.planning.miniature import tokenizer as tk
from drift.training.batches.collate import IGNORE
from drift.training.batches.order import RowOrder
from drift.training.batches.packing import Packed
from drift.training.options import ATTENTION
from drift.weights.delta.delta import compute_delta
from drift.weights.delta.deltafile import load_delta
from tests.invariance import BACKWARD, GROUPS, REFERENCE, Result, Scenario, deviation, train
from tests.tiny_models import tiny_family

from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor  # isort: skip

Case = Callable[[], Row]
ROWS, ROWS_PER_BATCH = 64, 4


def card(bench: Bench, folder: Path) -> dict[str, Case]:
    """What this card reaches at all: a product of two square matrices in bf16, and a copy in its memory."""

    def product() -> Row:
        side = bench.size.product
        one, other = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
        return {"side": side, "tflops": 2 * side**3 / median_of(10, lambda: one @ other, bench.device, warm=3) / 1e12}

    def copy() -> Row:
        source = torch.randn(8, bench.size.product, bench.size.product, device=bench.device)
        target = torch.empty_like(source)
        seconds = median_of(10, lambda: target.copy_(source), bench.device, warm=3)
        return {"bytes": source.nbytes, "gigabytes_per_second": 2 * source.nbytes / seconds / 1e9}

    return {"matrix product": product, "copy in memory": copy}


def steps(bench: Bench, folder: Path) -> dict[str, Case]:
    """A plain step, and guided ones, of one and the same model with as many layers as fit."""

    @cache
    def pair() -> tuple[Path, Path]:
        return save_pair(bench.network(bench.layers), folder, torch.bfloat16)

    @cache
    def ready() -> tuple[Any, torch.optim.Optimizer, list[Batch]]:
        return *bench.trained(bench.layers), [bench.text(bench.size.tokens)]

    def case(modules: tuple[str, ...]) -> Row:
        (vlm, expert), variant = pair(), Plain()
        if modules:
            out = folder / "-".join(modules)
            compute_delta(DeltaConfig(modules=modules), expert=str(expert), vlm=str(vlm), base=None, out=out)
            variant = WithPrior(load_delta(out))
        row = bench.timed(*ready(), variant)
        return {"layers": bench.layers, **row, "delta_gigabytes": variant.memory / 1e9}

    guided = {f"guided, {name}": partial(case, modules) for name, modules in SELECTIONS.items()}
    return {"plain": partial(case, ()), **guided, "plain, again": partial(case, ())}


def attention(bench: Bench, folder: Path) -> dict[str, Case]:
    """A plain step on one long row under each implementation of attention."""

    @cache
    def ready() -> tuple[Any, torch.optim.Optimizer, list[Batch]]:
        return *bench.trained(bench.few_layers), [bench.text(bench.size.long_tokens)]

    def case(name: str, backend: SDPBackend | None = None) -> Row:
        attend(ready()[0], name)
        with nullcontext() if backend is None else sdpa_kernel(backend):
            return {"layers": bench.few_layers, **bench.timed(*ready())}

    return {
        "eager": partial(case, "eager"),
        "sdpa, torch's choice": partial(case, "sdpa"),
        "sdpa, math": partial(case, "sdpa", SDPBackend.MATH),
        "sdpa, memory-efficient": partial(case, "sdpa", SDPBackend.EFFICIENT_ATTENTION),
        "sdpa, flash": partial(case, "sdpa", SDPBackend.FLASH_ATTENTION),
        **{name: partial(case, name) for name in ATTENTION},
    }


def packing(bench: Bench, folder: Path) -> dict[str, Case]:
    """The same uneven rows, padded or as one sequence; tokens are the rows' own."""
    shortest, longest = bench.size.row_tokens
    lengths = [shortest + (longest - shortest) * place // (ROWS - 1) for place in range(ROWS)]

    @cache
    def ready() -> tuple[Any, torch.optim.Optimizer]:
        return bench.trained(bench.few_layers)

    def case(name: str, *, packed: bool = False, by_length: bool = False) -> Row:
        model, optimizer = ready()
        attend(model, name)
        order = list(RowOrder(lengths, seed=0, group=ROWS_PER_BATCH if by_length else None))
        cut = [order[at : at + ROWS_PER_BATCH] for at in range(0, ROWS, ROWS_PER_BATCH)]
        rows = [[bench.text(lengths[place]) for place in places] for places in cut]
        collate: Any = Packed(padded, model) if packed else padded
        batches = [moved(collate(some), bench.device) for some in rows]
        places = sum(batch["input_ids"].numel() for batch in batches)
        return {"layers": bench.few_layers, **bench.timed(model, optimizer, batches), "places": places}

    flash = "flash_attention_2"
    return {
        "padded": partial(case, "sdpa"),
        "padded, rows by length": partial(case, "sdpa", by_length=True),
        "packed": partial(case, "sdpa", packed=True),
        f"padded, {flash}": partial(case, flash),
        f"packed, {flash}": partial(case, flash, packed=True),
    }


def padded(rows: list[Batch]) -> dict[str, torch.Tensor]:
    """Rows of tokens as a batch on the CPU, as the trainer's own collator pads them."""
    tokens = [row["input_ids"][0].cpu() for row in rows]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
        "labels": pad_sequence(tokens, batch_first=True, padding_value=IGNORE),
    }


def moved(batch: dict[str, Any], device: str) -> Batch:
    """The batch with its tensors on the device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def attend(model: Any, name: str) -> None:
    """Change a model's attention. Raises ModuleNotFoundError."""
    if (package := ATTENTION.get(name)) and importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"{package} is not installed")
    model.set_attn_implementation(name)


@dataclass(frozen=True)
class Asked:
    """A question with its picture."""

    text: str
    images: list[bytes]


def evaluation(bench: Bench, folder: Path) -> dict[str, Case]:
    """Greedy answers of a whole model from its folder, all of the same number of tokens, by size of batch."""
    size = bench.size

    @cache
    def model() -> LocalModel:
        bench.network(size.layers, torch.bfloat16).save_pretrained(folder)
        processor(size.picture**2).save_pretrained(folder)
        length = {"max_new_tokens": size.answer_tokens, "min_new_tokens": size.answer_tokens}
        return LocalModel(folder, {"do_sample": False, **length}, dtype="bfloat16")

    def case(count: int) -> Row:
        asked = [Asked("value of " + "a + " * (place % 9), [picture(place, size.picture)]) for place in range(count)]
        bench.forget_peak()
        seconds = median_of(3, partial(model().replies, asked), bench.device)
        return {
            "layers": size.layers,
            "answers": count,
            "tokens_of_an_answer": size.answer_tokens,
            "batch_seconds": seconds,
            "answers_per_second": count / seconds,
            "tokens_per_second": count * size.answer_tokens / seconds,
            "peak_gigabytes": bench.peak(),
        }

    return {f"batches of {count}": partial(case, count) for count in size.batches}


def processor(pixels: int) -> Any:
    """The miniature world's words, with pictures of up to so many pixels."""
    limits: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=tk.build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**limits),
        chat_template=tk.CHAT_TEMPLATE,
    )


def picture(seed: int, side: int) -> bytes:
    """A PNG of noise."""
    noise = torch.randint(256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    file = io.BytesIO()
    Image.fromarray(noise.numpy()).save(file, "PNG")
    return file.getvalue()


def invariance(bench: Bench, folder: Path) -> dict[str, Case]:
    """How far a global batch moves the weights on one rank in bf16 however it is cut, relative to float32 in one piece.

    The scenarios and the measure are those of `make invariance`, at a width of their own.
    """
    one_piece, *_ = ONE_RANK

    @cache
    def inputs() -> tuple[Any, dict[str, Any]]:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        family = tiny_family(folder, dtype=torch.bfloat16, **bench.size.family)
        compute_delta(DeltaConfig(), expert=str(family.expert), vlm=str(family.vlm), base=None, out=folder / "delta")
        return family, {"paper": load_delta(folder / "delta")}

    done: dict[str, Result] = {}

    def result(scenario: Scenario) -> Result:
        if scenario.name not in done:
            done[scenario.name] = train(scenario, *inputs(), bench.device)
        return done[scenario.name]

    def case(scenario: Scenario) -> Row:
        moved = result(scenario)
        apart = {"of_float32": deviation(moved, result(REFERENCE)), "of_one_piece": deviation(moved, result(one_piece))}
        return {**apart, "projection": moved.metrics[0].get("projection")}

    return {scenario.name: partial(case, scenario) for scenario in ONE_RANK}


ONE_RANK = [
    replace(scenario, dtype="bfloat16", name=scenario.name.replace("one process", "bf16"))
    for scenario in (*GROUPS["float32"], *BACKWARD, *GROUPS["plain"])
    if scenario.backend == "one"
]

PARTS: dict[str, Callable[[Bench, Path], dict[str, Case]]] = {
    part.__name__: part for part in (card, steps, attention, packing, evaluation, invariance)
}


# -------------------------------------------------------------------------------------------- running


def main() -> None:
    """Run parts, and write their cases' names and then a row for each to standard output, which nobody else gets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--layers", type=int)
    options = parser.parse_args()
    rows = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    bench = Bench(SMALL if options.small else QWEN_7B, options.device, options.layers)
    with tempfile.TemporaryDirectory() as folder:
        parts = {name: PARTS[name](bench, Path(folder, name)) for name in options.parts}
        cases = {name: list(part) for name, part in parts.items()}
        print(json.dumps({"cases": cases, "machine": _machine(bench)}), file=rows)
        for name in options.parts:
            for case, measure in parts.pop(name).items():
                print(json.dumps({"part": name, "case": case, **_row(measure)}), file=rows)


def _row(case: Case) -> Row:
    """The numbers of a case, or why it has none: whatever it is, the next case is worth its time."""
    try:
        return case()
    except torch.OutOfMemoryError:
        return {"not_run": "the card's memory is too small"}
    except Exception as error:
        return {"not_run": cause(error)}
    finally:
        gc.collect()  # a model that no later case needs


def _machine(bench: Bench) -> Row:
    if bench.device == "cpu":
        return {"card": f"no card, {platform.machine()}, {os.cpu_count()} cores"}
    total = torch.cuda.get_device_properties(0).total_memory
    return {"card": torch.cuda.get_device_name(), "card_gigabytes": total / 1e9, "cuda": torch.version.cuda}


if __name__ == "__main__":
    main()

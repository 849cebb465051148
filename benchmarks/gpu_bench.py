"""A Qwen2.5-VL of random weights on a device, and training steps timed on it.

A step over a row of n tokens costs 6·N·n + 6·L·d·n² operations: N weights in the matrices that it goes through
(embeddings are looked up; what is recomputed does not count), L layers of width d. The second term is attention, half
of that of the PaLM paper (Chowdhery et al. 2022, appendix B), since it is causal.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from benchmarks.prior_overhead import SHAPES, Batch, Plain, step, synchronize
from drift.planning.miniature import tokenizer as tk

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration  # isort: skip  # after prior_overhead

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What is measured at: the shapes of the decoder and of the vision tower, and how much of everything."""

    decoder: dict[str, int]
    tower: dict[str, int]
    family: dict[str, int]
    """Decoder of the invariance."""
    layers: int
    """Of the whole model, which evaluation takes."""
    tokens: int
    long_tokens: int
    row_tokens: tuple[int, int]
    picture: int
    batches: tuple[int, ...]
    answer_tokens: int
    product: int
    rounds: int


QWEN_7B = Size(
    decoder={**SHAPES["cuda"], "vocab_size": 8192},  # embeddings and head are not what is measured
    tower={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
    family={"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 2},
    layers=28,
    tokens=4096,
    long_tokens=8192,
    row_tokens=(128, 2048),
    picture=448,
    batches=(1, 8, 32, 64),
    answer_tokens=32,
    product=8192,
    rounds=5,
)
SMALL = Size(
    decoder={
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    tower={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2},
    family={},
    layers=2,
    tokens=32,
    long_tokens=64,
    row_tokens=(4, 24),
    picture=56,
    batches=(1, 4),
    answer_tokens=2,
    product=64,
    rounds=1,
)
BYTES_PER_WEIGHT = 24
"""float32 weight, gradient, two moments and AdamW's intermediate; a copy for autocast; Δ, and a little."""
LEFT_FREE = 12e9
"""Bytes for activations, logits, embeddings and the context."""
WORDS = tk.vocabulary()
MARKERS = {
    "image_token_id": WORDS.index(tk.IMAGE),
    "video_token_id": WORDS.index(tk.VIDEO),
    "vision_start_token_id": WORDS.index(tk.VISION_START),
    "vision_end_token_id": WORDS.index(tk.VISION_END),
}
ENDS = {"bos_token_id": None, "eos_token_id": WORDS.index(tk.END), "pad_token_id": WORDS.index(tk.PAD)}


class Bench:
    """A size on a device: its models, and steps timed on them."""

    def __init__(self, size: Size, device: str, layers: int | None) -> None:
        self.size, self.device = size, device
        self.layers = layers or self._fitting()
        self.few_layers = min(4, self.layers)

    def network(self, layers: int, dtype: torch.dtype = torch.float32) -> Any:
        """A Qwen2.5-VL of random weights, made where it is used."""
        torch.manual_seed(0)
        with torch.device(self.device):
            return Qwen2_5_VLForConditionalGeneration(_config(self.size, layers)).to(dtype)

    def trained(self, layers: int) -> tuple[Any, torch.optim.Optimizer]:
        """As `drift train` has it: the tower frozen, activations recomputed, AdamW on float32 weights."""
        model = self.network(layers).train()
        model.model.visual.requires_grad_(False)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        free = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model, torch.optim.AdamW(free, lr=1e-6)

    def timed(
        self, model: Any, optimizer: torch.optim.Optimizer, batches: Sequence[Batch], variant: Plain | None = None
    ) -> Row:
        """Steps over the micro-batches, the median after one that warms up; tokens, operations and peak memory."""
        variant = variant or Plain()
        self.forget_peak()
        variant.attach(model, optimizer)
        try:
            seconds = [step(variant, model, optimizer, batches, self.device)[0] for _ in range(1 + self.size.rounds)]
        finally:
            variant.detach()
            optimizer.zero_grad()
        rows = [length for batch in batches for length in own_lengths(batch)]
        median = statistics.median(seconds[1:])
        return {
            "step_seconds": median,
            "all_step_seconds": seconds[1:],
            "tokens": sum(rows),
            "tokens_per_second": sum(rows) / median,
            "tflops": operations(model, rows) / median / 1e12,
            "peak_gigabytes": self.peak(),
        }

    def text(self, tokens: int) -> Batch:
        """One row, all of it learned."""
        row = torch.randint(len(WORDS), self.size.decoder["vocab_size"], (1, tokens), device=self.device)
        return {"input_ids": row, "labels": row}

    def forget_peak(self) -> None:
        """Begin anew with the peak of the card's memory."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """10⁹ bytes of tensors on the card at most; None where there is no card."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else None

    def _fitting(self) -> int:
        if self.device != "cuda":
            return self.size.layers
        weights = _decoder_layer_weights(self.size.decoder)
        free, _ = torch.cuda.mem_get_info()
        return max(1, min(self.size.layers, int((free - LEFT_FREE) / (BYTES_PER_WEIGHT * weights))))


def operations(model: Any, rows: Sequence[int]) -> float:
    """Of a training step over rows of so many tokens, see above."""
    layers = model.model.language_model.layers
    weights = sum(weight.numel() for weight in layers.parameters() if weight.ndim > 1) + model.lm_head.weight.numel()
    width = model.config.text_config.hidden_size
    return float(sum(6 * weights * tokens + 6 * len(layers) * width * tokens**2 for tokens in rows))


def own_lengths(batch: Batch) -> list[int]:
    """Own tokens of the rows of a batch: padded, packed, or one row."""
    if "attention_mask" in batch:
        return [int(tokens) for tokens in batch["attention_mask"].sum(1)]
    if "position_ids" not in batch:
        return [batch["input_ids"].shape[1]]
    begins = (batch["position_ids"][0, 0] == 0).nonzero().flatten().tolist()
    return [end - begin for begin, end in pairwise([*begins, batch["input_ids"].shape[1]])]


def median_of(count: int, work: Callable[[], Any], device: str, warm: int = 1) -> float:
    """Median seconds of ``count`` calls, after some that warm up."""
    seconds = []
    for _ in range(warm + count):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[warm:])


def _decoder_layer_weights(decoder: Mapping[str, int]) -> int:
    width = decoder["hidden_size"]
    narrow = width // decoder["num_attention_heads"] * decoder["num_key_value_heads"]
    return 2 * width * (width + narrow) + 3 * width * decoder["intermediate_size"]


def _config(size: Size, layers: int) -> Qwen2_5_VLConfig:
    half = size.decoder["hidden_size"] // size.decoder["num_attention_heads"] // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * (half // 3), *[half // 3] * 2]}
    tower = {**size.tower, "out_hidden_size": size.decoder["hidden_size"]}
    return Qwen2_5_VLConfig(
        text_config={**size.decoder, **ENDS, "num_hidden_layers": layers, "rope_parameters": rope},
        vision_config={**tower, "fullatt_block_indexes": [size.tower["depth"] - 1]},
        tie_word_embeddings=False,
        **MARKERS,
    )

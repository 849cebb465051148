"""What a model is asked, whoever asks it: the text, the picture, and which questions go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.data.chains.requests import sample_seed
from drift.evaluate.benchmarks import Benchmark, Item

PIXELS_PER_CHARACTER = 200  # a visual token covers 28 x 28 px, a text token about four characters


@dataclass(frozen=True)
class Question:
    """What the model is shown: the user's text and one encoded image of ``size`` (width, height)."""

    benchmark: str
    index: str
    text: str
    image: bytes = field(repr=False)
    size: tuple[int, int]
    sample: int = 0
    """Which of the answers to this question."""
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    """Of this answer, where it is drawn."""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.benchmark, self.index, self.sample

    @property
    def images(self) -> list[bytes]:
        return [self.image]


def describe_asking(config: EvaluateConfig) -> dict[str, Any]:
    """All that decides what is asked and how; what it leaves out changes only the speed."""
    return {
        "decoding": _decoding(config),
        "inference": config.inference,
        **({"vllm": config.vllm.deciding()} if config.inference == "vllm" else {}),
        "neutral": config.endpoint.neutral if config.endpoint else True,
        **(config.endpoint.deciding() if config.endpoint else {}),
        "instruction": config.instruction,
        "prompts": {name: config.benchmarks[name].prompt for name in sorted(config.benchmarks)},
        "roles": {name: config.benchmarks[name].role for name in sorted(config.benchmarks)},
        "formats": {name: config.benchmarks[name].format for name in sorted(config.benchmarks)},
        "max_new_tokens": config.max_new_tokens,
        "image_max_pixels": config.image_max_pixels,
        "image_min_pixels": config.image_min_pixels,
        "dtype": None if config.endpoint else config.dtype,
        "limit": config.limit,
    }


def _decoding(config: EvaluateConfig) -> str | dict[str, Any]:
    """`greedy`, or how the answers are drawn where any is."""
    temperatures = {name: config.temperature_of(name) for name in sorted(config.benchmarks)}
    if not any(temperatures.values()):
        return "greedy"
    samples = {name: config.samples_of(name) for name in temperatures}
    return {"temperature": temperatures, "samples": samples, "seed": config.seed}


def question_text(item: Item, prompt: str) -> str:
    """The user's turn: the question, with its options, in the benchmark's template."""
    return prompt.format(question=item.text)


def questions(benchmark: Benchmark) -> list[Question]:
    """One for each answer to each item that can be asked."""
    return [
        Question(
            benchmark.name,
            item.index,
            question_text(item, benchmark.config.prompt),
            item.image,
            item.size,
            sample,
            benchmark.temperature,
            sample_seed(benchmark.seed, benchmark.name, item.index, sample),
        )
        for item in benchmark.items
        if item.image is not None
        for sample in range(benchmark.samples)
    ]


def batches(asked: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """Questions of similar length together, the longest first: what does not fit into memory shows at once."""
    ordered = sorted(asked, key=lambda question: -_length(question))
    return (ordered[start : start + size] for start in range(0, len(ordered), size))


def _length(question: Question) -> int:
    return question.size[0] * question.size[1] + PIXELS_PER_CHARACTER * len(question.text)

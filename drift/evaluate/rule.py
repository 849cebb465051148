"""Protocol `rule`: greedy answers of a local checkpoint, extracted and compared by rule, without a judge.

Its numbers compare models with each other, not with leaderboards, whose judges and prompts are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drift.config import EvaluateConfig
from drift.data.verify import Item as Comparison
from drift.data.verify import Kind, answer_kind, verify_many
from drift.evaluate.answers import extract
from drift.evaluate.benchmarks import Benchmark, Item
from drift.evaluate.generation import GreedyModel, Question, Reply
from drift.evaluate.samples import Sample

VERSION = 2
"""Raised when the extraction or the comparison changes, so that old scores are not compared with new ones."""


def describe(config: EvaluateConfig) -> dict[str, Any]:
    """All that decides what is asked and how it is judged; what it leaves out changes only the speed."""
    return {
        "name": "rule",
        "version": VERSION,
        "decoding": "greedy",
        "prompts": {name: config.benchmarks[name].prompt for name in sorted(config.benchmarks)},
        "roles": {name: config.benchmarks[name].role for name in sorted(config.benchmarks)},
        "formats": {name: config.benchmarks[name].format for name in sorted(config.benchmarks)},
        "max_new_tokens": config.max_new_tokens,
        "image_max_pixels": config.image_max_pixels,
        "dtype": config.dtype,
        "limit": config.limit,
    }


def ask(config: EvaluateConfig, benchmarks: Sequence[Benchmark], model: Path) -> dict[str, dict[str, Reply]]:
    """Replies by benchmark and index. Batches hold one benchmark, so short answers do not wait for long ones.

    Raises CheckpointError if the model does not load.
    """
    greedy = GreedyModel(model, config)
    return {benchmark.name: _ask_benchmark(greedy, benchmark) for benchmark in benchmarks}


def judge_all(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], replies: dict[str, dict[str, Reply]]
) -> list[Sample]:
    """A sample per item, in the tables' order."""
    return [sample for benchmark in benchmarks for sample in judge(benchmark, replies[benchmark.name])]


def question_text(item: Item, prompt: str) -> str:
    """The user's turn: the question, with its options, in the benchmark's template."""
    return prompt.format(question=item.text)


def _ask_benchmark(greedy: GreedyModel, benchmark: Benchmark) -> dict[str, Reply]:
    asked = [item for item in benchmark.items if item.image is not None]
    questions = [Question(question_text(item, benchmark.config.prompt), item.image or b"", item.size) for item in asked]
    return dict(zip((item.index for item in asked), greedy.replies(questions, benchmark.name), strict=True))


def judge(benchmark: Benchmark, replies: dict[str, Reply]) -> list[Sample]:
    """A sample per item of the benchmark; an item without a reply is `failed`."""
    parts = [
        extract(replies[item.index].text, item.form, item.choices) if item.index in replies else (None, None)
        for item in benchmark.items
    ]
    comparisons = [
        Comparison(answer, item.gold, _kind(item), item.choices)
        for item, (_, answer) in zip(benchmark.items, parts, strict=True)
    ]
    verdicts = verify_many(comparisons)
    return [
        _sample(benchmark, item, replies.get(item.index), thinking, verdict.answer, verdict.status)
        for item, (thinking, _), verdict in zip(benchmark.items, parts, verdicts, strict=True)
    ]


def _kind(item: Item) -> Kind:
    several = item.form == "letters" and len(item.gold) > 1
    return "text" if several else answer_kind(item.gold, item.choices)


def _sample(
    benchmark: Benchmark, item: Item, reply: Reply | None, thinking: str | None, answer: str | None, status: Any
) -> Sample:
    return Sample(
        benchmark=benchmark.name,
        role=benchmark.config.role,
        index=item.index,
        group=item.group,
        correct=reply is not None and status == "correct",
        answer=answer,
        gold=item.gold,
        raw=reply.text if reply else None,
        thinking=thinking,
        finish_reason=reply.finish_reason if reply else None,
        status=status if reply else "failed",
        category=item.category,
        part=item.part,
        question=question_text(item, benchmark.config.prompt),
        error=item.fault,
    )

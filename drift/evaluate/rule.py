"""Protocol `rule`: answers, extracted and compared by rule, without a judge.

Its numbers compare models with each other, not with leaderboards, whose judges and prompts are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.benchmarks import Benchmark, Item
from drift.evaluate.questions import describe_asking, question_text
from drift.evaluate.samples import Sample
from drift.inference.reply import Reply
from drift.verdicts.answers import Extracted, extract_answer
from drift.verdicts.verdict import Item as Comparison
from drift.verdicts.verdict import Verdict, verify_many

VERSION = 3
"""Raised when the extraction or the comparison changes, so that old scores are not compared with new ones."""


def describe(config: EvaluateConfig) -> dict[str, Any]:
    """All that decides what is asked and how it is judged."""
    return {"name": "rule", "version": VERSION, **describe_asking(config)}


def judge_all(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], replies: Mapping[str, Sequence[Mapping[str, Reply]]]
) -> list[Sample]:
    """A sample per item and run, in the tables' order, run after run."""
    return [sample for benchmark in benchmarks for sample in judge(benchmark, *replies[benchmark.name])]


def judge(benchmark: Benchmark, *runs: Mapping[str, Reply]) -> list[Sample]:
    """A sample per item of the benchmark and run; an item without a reply is `failed`.

    A run is one reply to each item, by its index. A server's reasoning is not scored.
    """
    asked = [(number, item, run.get(item.index)) for number, run in enumerate(runs) for item in benchmark.items]
    read = [extract_answer((reply or Reply()).text, item.form, item.choices) for _, item, reply in asked]
    comparisons = [
        Comparison(one.answer, item.gold, choices=item.choices, places=_places(item))
        for (_, item, _), one in zip(asked, read, strict=True)
    ]
    return [
        _sample(benchmark, item, reply, extracted, verdict, number)
        for (number, item, reply), extracted, verdict in zip(asked, read, verify_many(comparisons), strict=True)
    ]


def _places(item: Item) -> int | None:
    """Decimals that MathVista's own table rounds a number to; None where it says nothing."""
    try:
        return int(float(item.cells["precision"])) if item.cells.get("answer_type") == "float" else None
    except (KeyError, ValueError, OverflowError):
        return None


def _sample(
    benchmark: Benchmark, item: Item, reply: Reply | None, extracted: Extracted, verdict: Verdict, number: int
) -> Sample:
    """Thinking is what the server parted off, else what the text does."""
    answered = reply is not None and reply.error is None
    return Sample(
        benchmark=benchmark.name,
        role=benchmark.config.role,
        index=item.index,
        group=item.group,
        correct=answered and verdict.status == "correct",
        answer=extracted.answer,
        gold=item.gold,
        raw=reply.text if reply and answered else None,
        thinking=(reply.reasoning if reply else None) or extracted.thinking,
        finish_reason=reply.finish_reason if reply else None,
        status=verdict.status if answered else "failed",
        category=item.category,
        part=item.part,
        question=question_text(item, benchmark.config.prompt),
        error=reply.error if reply else item.fault,
        read=extracted.read,
        sample=number,
    )

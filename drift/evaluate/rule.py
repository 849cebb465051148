"""Protocol `rule`: answers, extracted and compared by rule, without a judge.

Its numbers compare models with each other, not with leaderboards, whose judges and prompts are others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.benchmarks import Benchmark, Item
from drift.evaluate.questions import describe_asking, question_text
from drift.evaluate.samples import Sample
from drift.inference.reply import Reply
from drift.verdicts.answers import extract_answer
from drift.verdicts.extract import final_answer, split_thinking
from drift.verdicts.verdict import Item as Comparison
from drift.verdicts.verdict import Kind, answer_kind, verify_many

VERSION = 3
"""Raised when the extraction or the comparison changes, so that old scores are not compared with new ones."""

_DECLARED = re.compile(r"(?i:answers?\W{0,6}(?:is|are|:)|<answer>)")


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
    parts = [_parts(item, reply or Reply()) for _, item, reply in asked]
    comparisons = [
        Comparison(answer, item.gold, _kind(item), item.choices)
        for (_, item, _), (_, answer) in zip(asked, parts, strict=True)
    ]
    return [
        _sample(benchmark, item, reply, thinking, verdict.answer, verdict.status, number)
        for (number, item, reply), (thinking, _), verdict in zip(asked, parts, verify_many(comparisons), strict=True)
    ]


def _parts(item: Item, reply: Reply) -> tuple[str | None, str | None]:
    """Thinking, as the server or else the text parts it off, and the answer in the text."""
    thinking, answer = extract_answer(reply.text, item.form, item.choices)
    return reply.reasoning or thinking, answer


def _kind(item: Item) -> Kind:
    several = item.form == "letters" and len(item.gold) > 1
    return "text" if several else answer_kind(item.gold, item.choices)


def _sample(
    benchmark: Benchmark,
    item: Item,
    reply: Reply | None,
    thinking: str | None,
    answer: str | None,
    status: Any,
    number: int,
) -> Sample:
    answered = reply is not None and reply.error is None
    return Sample(
        benchmark=benchmark.name,
        role=benchmark.config.role,
        index=item.index,
        group=item.group,
        correct=answered and status == "correct",
        answer=answer,
        gold=item.gold,
        raw=reply.text if reply and answered else None,
        thinking=thinking,
        finish_reason=reply.finish_reason if reply else None,
        status=status if answered else "failed",
        category=item.category,
        part=item.part,
        question=question_text(item, benchmark.config.prompt),
        error=reply.error if reply else item.fault,
        read=_read(reply, answer) if reply else "none",
        sample=number,
    )


def _read(reply: Reply, answer: str | None) -> str:
    """How the answer stood in the reply: `boxed`, `declared`, `bare`, or `none` if there is none."""
    if answer is None:
        return "none"
    if final_answer(reply.text) is not None:
        return "boxed"
    return "declared" if _DECLARED.search(split_thinking(reply.text)[1]) else "bare"

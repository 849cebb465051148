"""Adaptive sampling: one sample of each problem, and one more only while none of its answers is right.

Round s asks for sample s of the problems whose sample s-1 is there and not right. So which samples there are depends on
the replies alone, not on where a run was killed; a problem whose request failed waits for that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from drift.config.data import GenerateConfig
from drift.data import tables
from drift.data.chains.generations import full_text
from drift.inference.parts import Parts
from drift.verdicts.verdict import Item, final_answer, verify_many

TOGETHER = 4096
"""Answers that are verified in one go."""


def rounds(config: GenerateConfig) -> list[range]:
    """The samples that are asked for together; all at once unless they are adaptive."""
    return [range(n, n + 1) for n in range(config.samples)] if config.adaptive else [range(config.samples)]


def everything(table: Path) -> bytearray:
    """1 for each problem of ``table``."""
    return bytearray(b"\1" * tables.count_rows(table))


def unsolved(table: Path, parts: Parts, sample: int) -> bytearray:
    """For each problem of ``table``, in its order, 1 where its answer number ``sample`` is there and not right."""
    flags = bytearray()
    rows = tables.read_rows(table, ["id", "gold", "choices"])
    while some := list(islice(rows, TOGETHER)):
        flags += bytearray(_unsolved(some, parts, sample))
    return flags


def _unsolved(problems: list[tables.Row], parts: Parts, sample: int) -> Iterator[bool]:
    found = [parts.row((problem["id"], sample)) for problem in problems]
    items = [
        Item(final_answer(full_text(row)), problem["gold"], choices=problem["choices"])
        for problem, row in zip(problems, found, strict=True)
        if row is not None
    ]
    verdicts = iter(verify_many(items))
    return (row is not None and next(verdicts).status != "correct" for row in found)

"""Questions that a benchmark shares with another one, or with what a model was trained on: found, counted, listed.

A question is held by another table if its image is there byte for byte, or a near image with a near text, as
`drift.data.near` has it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drift.config.evaluate import EvaluateConfig
from drift.data.near import read_table, shared
from drift.evaluate.benchmarks import Benchmark
from drift.ground.artifacts import write_json
from drift.ground.errors import DataError

FILE = "overlaps.json"
TRAINING_SET = "training_set"


@dataclass(frozen=True)
class Held:
    """A question of ``benchmark`` that ``other`` holds too."""

    benchmark: str
    index: str
    other: str
    other_index: str
    why: str


def find_overlaps(benchmarks: Sequence[Benchmark], training_set: Path | None = None) -> list[Held]:
    """Every question that another benchmark or the training set holds, once for each of them, in the tables' order.

    ``training_set``: a folder written by `drift curate`, or by `drift ingest`. Raises DataError if it is neither.
    """
    tables = [read_table(benchmark.name, _questions(benchmark)) for benchmark in benchmarks]
    others = [*tables, read_table(TRAINING_SET, _trained_on(training_set))] if training_set else tables
    return [
        Held(table.name, table.keys[place], other.name, other.keys[there], why)
        for table in tables
        for other in others
        if other is not table
        for place, there, why in shared(table, other)
    ]


def check_overlaps(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], found: Sequence[Held], folder: Path
) -> None:
    """Write `overlaps.json` into ``folder`` if anything was found. Raises DataError past a limit."""
    if found:
        write_json(folder / FILE, [dataclasses.asdict(held) for held in found])
    for benchmark in benchmarks:
        count = len(benchmark.items)
        mine = [held for held in found if held.benchmark == benchmark.name]
        for key, limit, trained in (
            ("max_contaminated", config.max_contaminated, True),
            ("max_overlap", config.max_overlap, False),
        ):
            held = {one.index: one for one in mine if (one.other == TRAINING_SET) == trained}
            if len(held) > limit * count:
                first = next(iter(held.values()))
                raise DataError(
                    f"evaluate.{key}: {benchmark.name}: {len(held)} of {count} questions are in {first.other} too "
                    f"(index {first.index} is {first.other_index}: {first.why}), more than the share {limit:g}; "
                    f"{folder / FILE} lists them: take them out, or raise the limit"
                )


def counts(found: Sequence[Held], benchmark: str) -> dict[str, int]:
    """How many questions of a benchmark each other table holds."""
    return dict(sorted(Counter(held.other for held in found if held.benchmark == benchmark).items()))


# -------------------------------------------------------------------------------------------- tables


def _questions(benchmark: Benchmark) -> Iterator[tuple[str, str, bytes]]:
    for item in benchmark.items:
        if item.image is not None:
            yield item.index, item.cells["question"], item.image


def _trained_on(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    from drift.data.tables import PROBLEMS_FILE, TRAIN_FILE, read_rows  # only where there is one

    trained = (folder / TRAIN_FILE).is_file()
    column = "messages" if trained else "problem"
    for row in read_rows(folder / (TRAIN_FILE if trained else PROBLEMS_FILE), ["id", column, "images"]):
        text = row[column][0]["content"] if trained else row[column]
        yield from ((row["id"], text, image["bytes"]) for image in row["images"] or ())

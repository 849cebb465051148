"""The rows of a training set, shuffled without being in memory: spooled to disk as they come, read in another order."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import pyarrow as pa

from drift.config.data import CurateConfig
from drift.data import tables
from drift.data.chains.generations import full_text
from drift.data.chains.prompts import user_text
from drift.data.filters.capping import seeded_rank
from drift.data.filters.single import normalised
from drift.data.pool import Pool
from drift.data.selection.funnel import Funnel
from drift.data.selection.verdicts import tokens_of
from drift.data.tables import Row

SPOOL_FILE = ".rows.arrow"
ROW_COLUMNS = ["id", "source", "problem", "text_problem", "gold", "choices", "images"]
"""Of a problem that becomes a row."""
SCHEMA = tables.TRAINING_SET.arrow_schema

Spooled = tuple[str, str, int]
"""Kind and id of a row, and its number in the spool."""


class Spool:
    """Rows in a file of the folder, which is gone at the end: added one after another, read by their numbers."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SPOOL_FILE
        self._file = self._path.open("w+b")
        self._ends = array("q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._path.unlink()
        self._file.close()

    def add(self, row: Row) -> Spooled:
        """One more row."""
        written = self._file.write(pa.RecordBatch.from_pylist([row], schema=SCHEMA).serialize())
        self._ends.append(self._ends[-1] + written)
        return row["kind"], row["id"], len(self._ends) - 2

    def read(self, numbers: Iterable[int]) -> Iterator[Row]:
        """The rows of these numbers, in this order."""
        for number in numbers:
            self._file.seek(self._ends[number])
            message = self._file.read(self._ends[number + 1] - self._ends[number])
            yield pa.ipc.read_record_batch(message, SCHEMA).to_pylist()[0]
        self._file.seek(self._ends[-1])


def write_training_set(path: Path, spool: Spool, rows: Iterable[Spooled], seed: int) -> None:
    """The spooled rows in an order that is random and fixed for a seed."""
    ordered = sorted(rows, key=lambda row: seeded_rank(seed, "order", *row[:2]))
    tables.write_rows(path, spool.read(number for _, _, number in ordered), tables.TRAINING_SET)


def write_rejects(path: Path, pool: Pool, funnel: Funnel) -> None:
    """Every generation that was left out, with stage, reason and text: stage by stage, in the pool's order."""

    def rejects() -> Iterator[Row]:
        for number, (stage, reason) in funnel.rejected():
            row = pool.generation(number)
            yield {"id": row["id"], "sample": row["sample"], "stage": stage, "reason": reason, "text": full_text(row)}

    tables.write_rows(path, rejects(), tables.GENERATION_REJECTS)


def chain_row(problem: Row, generation: Row, pass_rate: float, config: CurateConfig, kind: str = "cot") -> Row:
    """A row of the training set: the problem, and the teacher's chain as answer."""
    return _row(problem, kind, normalised(full_text(generation)), config) | {
        "pass_rate": pass_rate,
        "n_tokens": tokens_of(generation),
        "teacher": generation.get("model"),
    }


def replay_row(problem: Row, config: CurateConfig) -> Row:
    """A row of the training set: a question, and its gold answer alone."""
    return _row(problem, "direct", problem["gold"], config) | {"pass_rate": None, "n_tokens": None, "teacher": None}


def _row(problem: Row, kind: str, answer_text: str, config: CurateConfig) -> Row:
    question, words = user_text(config.prompt, problem), problem.get("text_problem")
    return {
        "id": problem["id"],
        "kind": kind,
        "images": problem["images"],
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer_text}],
        "text_problem": user_text(config.prompt, {**problem, "problem": words}) if words else None,
        "answer": problem["gold"],
        "source": problem["source"],
    }

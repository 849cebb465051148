"""The questions of chains as they are compared with others: pictures as hashes, with text, options and answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from drift.data.chains.prompts import user_text
from drift.data.filters.candidates import Chain
from drift.data.near import Table, read_table
from drift.data.pool import Pool
from drift.data.tables import Row

COLUMNS = ["id", "problem", "gold", "choices", "images"]


@dataclass(frozen=True)
class Questions:
    """``table`` has a line for each image, the lines of a question together; the rest is by the question's id."""

    table: Table
    images: Counter[str]
    """How many each has."""
    answers: dict[str, str]
    bare: dict[str, list[str]] = field(repr=False)
    """Ids of the questions without an image, by their text."""


def questions_of(pool: Pool, chains: Sequence[Chain]) -> Questions:
    """The questions that the chains answer, in the pool's order."""
    wanted = {chain.id for chain in chains}
    images: Counter[str] = Counter()
    answers: dict[str, str] = {}
    bare: dict[str, list[str]] = {}

    def lines() -> Iterator[tuple[str, str, bytes]]:
        for problem in pool.problems(COLUMNS):
            if problem["id"] in wanted:
                images[problem["id"]] = len(problem["images"])
                answers[problem["id"]] = _answer(problem)
                if not problem["images"]:
                    bare.setdefault(user_text("{problem}", problem), []).append(problem["id"])
                yield from lines_of([problem])

    return Questions(read_table("chains", lines()), images, answers, bare)


def lines_of(problems: Iterable[Row]) -> Iterator[tuple[str, str, bytes]]:
    """``(id, text with its options, image)`` of every image of some problems."""
    for problem in problems:
        text = user_text("{problem}", problem)
        yield from ((problem["id"], text, image["bytes"]) for image in problem["images"])


def _answer(problem: Row) -> str:
    """The gold answer; of a letter that stands for an option, the option: options may come in another order."""
    gold, choices = problem["gold"].strip(), problem["choices"] or []
    place = ord(gold.upper()) - ord("A") if len(gold) == 1 else -1
    return choices[place] if gold not in choices and 0 <= place < len(choices) else gold

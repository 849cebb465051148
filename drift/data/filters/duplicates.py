"""Problems that are one: near images, texts that ask the same, and the same answer. Where only the answer is another,
one of the two is wrong, and nobody here can say which: both stay, and are listed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drift.data.filters.candidates import Chain
from drift.data.filters.capping import seeded_rank
from drift.data.filters.questions import Questions
from drift.data.near import NEAR_BITS, Table, same_question
from drift.verdicts.verdict import Item, verify_many


@dataclass(frozen=True)
class Twin:
    """Two problems that ask the same of one picture, and whether their gold answers are the same."""

    id: str
    other: str
    answer: str
    other_answer: str
    contradicts: bool


def find_twins(asked: Questions, timeout_seconds: float) -> list[Twin]:
    """All of them, in the pool's order. Answers are compared as verdicts are; where no rule can say, it is no twin."""
    pairs = sorted({*_near_pairs(asked), *_bare_pairs(asked)})
    answers = asked.answers
    verdicts = verify_many([Item(answers[other], answers[id]) for id, other in pairs], timeout_seconds)
    return [
        Twin(id, other, answers[id], answers[other], contradicts=verdict.status != "correct")
        for (id, other), verdict in zip(pairs, verdicts, strict=True)
        if verdict.status in ("correct", "incorrect")
    ]


def repeated(twins: Sequence[Twin], chains: Sequence[Chain], seed: int) -> dict[int, str]:
    """The chains that go, by number: each has a twin that stays. Who stays is drawn as `keep` draws."""
    near: dict[str, set[str]] = defaultdict(set)
    for twin in twins:
        if not twin.contradicts:
            near[twin.id].add(twin.other)
            near[twin.other].add(twin.id)
    stay: set[str] = set()
    for chain in sorted(chains, key=lambda one: seeded_rank(seed, "keep", one.id)):
        if not near[chain.id] & stay:
            stay.add(chain.id)
    return {chain.number: "near_duplicate" for chain in chains if chain.id not in stay}


def _near_pairs(asked: Questions) -> Iterator[tuple[str, str]]:
    table, images = asked.table, asked.images
    first = {key: place for place, key in reversed([*enumerate(table.keys)])}
    for place, near in enumerate(table.near.of(table.hashes)):
        id = table.keys[place]
        if first[id] != place:
            continue
        for other_place in near[near > place].tolist():
            other = table.keys[other_place]
            alike = other != id and first[other] == other_place and images[other] == images[id]
            if alike and _same_in_all_images(table, place, other_place, images[id]):
                yield id, other


def _same_in_all_images(table: Table, place: int, other: int, images: int) -> bool:
    differences = np.bitwise_count(table.hashes[place : place + images] ^ table.hashes[other : other + images])
    return bool((differences.sum(axis=1) <= NEAR_BITS).all()) and same_question(table.texts[place], table.texts[other])


def _bare_pairs(asked: Questions) -> Iterator[tuple[str, str]]:
    """Questions without an image that have the same text."""
    for ids in asked.bare.values():
        yield from itertools.combinations(ids, 2)

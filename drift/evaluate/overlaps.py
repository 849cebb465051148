"""Questions that a benchmark shares with another one, or with what a model was trained on: found, counted, listed.

A question is held by another table if its image is there byte for byte, or a near image with a near text. Near images
differ in at most 32 of the 256 bits of their perceptual hash (Zauner 2010), as scaled and recompressed copies do. Near
texts have nine tenths of their words in common (one may hold more than the other), and the same numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image
from rapidfuzz import fuzz, process

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.benchmarks import Benchmark
from drift.ground.artifacts import write_json
from drift.ground.decoding import as_seen
from drift.ground.errors import DataError

FILE = "overlaps.json"
TRAINING_SET = "training_set"

SIDE, BITS = 16, 256
NEAR_BITS = 32
"""Copies at half to twice the size and JPEG quality 60 differ in at most 16 bits, unlike pictures in 94 and more. Of
drawings of one kind (the miniature's benchmarks), one pair in 1,000 is nearer than 58, the nearest 28."""
WORD = re.compile(r"\w+|[^\w\s.,;:!?'\"()]")
"""A word or a sign, without punctuation."""
NEAR_TEXT = 90.0
"""Percent of `rapidfuzz.fuzz.token_set_ratio`."""
AT_ONCE = 64
"""Questions compared with a whole table at once (64 x 10,000 hashes take 20 MB), and images hashed at once."""
BEST = 5


@dataclass(frozen=True)
class Held:
    """A question of ``benchmark`` that ``other`` holds too."""

    benchmark: str
    index: str
    other: str
    other_index: str
    why: str


@dataclass(frozen=True)
class Table:
    """What is compared of each question: its image's digest and hash, and its text."""

    name: str
    keys: list[str]
    digests: list[str]
    hashes: np.ndarray[Any, Any]
    """Questions x 4, uint64."""
    texts: list[str]


def find_overlaps(benchmarks: Sequence[Benchmark], training_set: Path | None = None) -> list[Held]:
    """Every question that another benchmark or the training set holds, once for each of them, in the tables' order.

    ``training_set``: a folder written by `drift curate`, or by `drift ingest`. Raises DataError if it is neither.
    """
    tables = [_table(benchmark.name, _questions(benchmark)) for benchmark in benchmarks]
    others = [*tables, _table(TRAINING_SET, _trained_on(training_set))] if training_set else tables
    return [held for table in tables for other in others if other is not table for held in _held(table, other)]


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


def _table(name: str, questions: Iterable[tuple[str, str, bytes]]) -> Table:
    keys: list[str] = []
    digests: list[str] = []
    hashes: list[Any] = []
    texts: list[str] = []
    remaining = iter(questions)
    with ThreadPoolExecutor() as pool:
        while some := list(itertools.islice(remaining, AT_ONCE)):
            keys += [key for key, _, _ in some]
            texts += [" ".join(WORD.findall(text.lower())) for _, text, _ in some]
            digests += [hashlib.sha256(image).hexdigest() for _, _, image in some]
            hashes += pool.map(_perceptual, (image for _, _, image in some))
    return Table(name, keys, digests, np.array(hashes, dtype=np.uint64).reshape(len(keys), BITS // 64), texts)


def _perceptual(encoded: bytes) -> Any:
    """The 256 bits of an image's perceptual hash, as four numbers. Most of its time is decoding, outside of the GIL."""
    image = Image.open(io.BytesIO(encoded))
    image.draft("L", (4 * SIDE, 4 * SIDE))  # of a JPEG, decodes no more than is needed
    bits = imagehash.phash(as_seen(image), hash_size=SIDE).hash
    return np.packbits(bits).view(np.uint64)


# --------------------------------------------------------------------------------------- comparison


def _held(table: Table, other: Table) -> Iterator[Held]:
    same = dict(zip(reversed(other.digests), reversed(other.keys), strict=True))  # the first of equal ones
    near = _near(table, other)
    for place, (key, digest) in enumerate(zip(table.keys, table.digests, strict=True)):
        if digest in same:
            yield Held(table.name, key, other.name, same[digest], "the same image")
        elif place in near:
            yield Held(table.name, key, other.name, other.keys[near[place]], "a near image and a near text")


def _near(table: Table, other: Table) -> dict[int, int]:
    """By place of a question, the place of one with a near image and a near text."""
    found: dict[int, int] = {}
    for start in range(0, len(table.keys), AT_ONCE):
        distances = np.bitwise_count(table.hashes[start : start + AT_ONCE, None] ^ other.hashes[None]).sum(axis=2)
        for row, near in enumerate(distances <= NEAR_BITS):
            if near.any() and (place := _near_text(table.texts[start + row], other.texts, near)) is not None:
                found[start + row] = place
    return found


def _near_text(text: str, texts: Sequence[str], near: np.ndarray[Any, Any]) -> int | None:
    """Place of a near text among those with a near image."""
    candidates = {place: texts[place] for place in np.flatnonzero(near).tolist()}
    best = process.extract(text, candidates, scorer=fuzz.token_set_ratio, score_cutoff=NEAR_TEXT, limit=BEST)
    return next((place for other, _, place in best if _same_numbers(text, other)), None)


def _same_numbers(one: str, other: str) -> bool:
    """Whether the numbers of one text are all in the other."""
    first, second = (Counter(re.findall(r"\d+", text)) for text in (one, other))
    return first <= second or second <= first

"""Questions that are one and the same under another picture file and other words: what is near, and how it is found.

Near images differ in at most 32 of the 256 bits of their perceptual hash (Zauner 2010), as scaled and recompressed
copies do. Near texts have nine tenths of their words in common (one may hold more than the other), and the same
numbers. A duplicate needs more, since pictures of one kind are asked alike: see `same_question`.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
from PIL import Image
from rapidfuzz import fuzz, process

from drift.ground.decoding import as_seen
from drift.ground.progress import shown

SIDE, BITS = 16, 256
NEAR_BITS = 32
"""Copies at half to twice the size and JPEG quality 60 differ in at most 16 bits, unlike pictures in 94 and more. Of
drawings of one kind (the miniature's benchmarks), one pair in 1,000 is nearer than 58, the nearest 28."""
BANDS, BAND_BITS = 17, 15
"""Two differences in each of 17 bands would be 34: near hashes have a band in which at most one bit differs."""
PAIRS_AT_ONCE = 1 << 19
WORD = re.compile(r"\w+|[^\w\s.,;:!?'\"()]")
"""A word or a sign, without punctuation."""
NEAR_TEXT = 90.0
"""Percent of `rapidfuzz.fuzz.token_set_ratio`."""
SHARED_WORDS = 0.9
AT_ONCE = 64
"""Images hashed at once, and questions compared with a whole table at once."""
SAME_IMAGE, NEAR_QUESTION = "the same image", "a near image and a near text"
FILLER = frozenset({
    "a", "an", "the", "of", "in", "at", "to", "is", "are", "was", "were", "be", "do", "does", "did", "has", "have",
    "there", "this", "that", "it", "its", "as", "if", "then", "me", "you", "can", "could", "please", "what", "which",
    "how", "many", "much", "find", "determine", "calculate", "compute", "evaluate", "give", "state", "tell", "write",
    "count", "number", "value", "answer", "question", "problem", "figure", "picture", "image", "diagram", "drawing",
    "shown", "show", "see", "look", "well", "carefully", "following", "given",
})  # fmt: skip
"""Words that say how a question is put, not what is asked."""
_ENDING = re.compile(r"(?<=\w{3})(?:ing|ed|es|s|e)$")

Hashes = np.ndarray[Any, Any]
"""Images x 4, uint64."""


@dataclass(frozen=True)
class Table:
    """What is compared of each question: its image's digest and hash, and its text."""

    name: str
    keys: list[str]
    digests: list[str]
    hashes: Hashes
    texts: list[str]

    @functools.cached_property
    def near(self) -> NearImages:
        """Its images, to be looked up."""
        return NearImages(self.hashes)


def read_table(name: str, questions: Iterable[tuple[str, str, bytes]]) -> Table:
    """The table of ``(key, text, encoded image)``; a question with several images stands once for each."""
    keys: list[str] = []
    digests: list[str] = []
    hashes: list[Any] = []
    texts: list[str] = []
    remaining = shown(questions, f"pictures of {name}", None, unit="picture")
    with ThreadPoolExecutor() as pool:
        while some := list(itertools.islice(remaining, AT_ONCE)):
            keys += [key for key, _, _ in some]
            texts += [text for _, text, _ in some]
            digests += [hashlib.sha256(image).hexdigest() for _, _, image in some]
            hashes += pool.map(perceptual, (image for _, _, image in some))
    return Table(name, keys, digests, np.array(hashes, dtype=np.uint64).reshape(len(keys), BITS // 64), texts)


def perceptual(encoded: bytes) -> Any:
    """The 256 bits of an image's perceptual hash, as four numbers. Most of its time is decoding, outside of the GIL."""
    image = Image.open(io.BytesIO(encoded))
    image.draft("L", (4 * SIDE, 4 * SIDE))  # of a JPEG, decodes no more than is needed
    bits = imagehash.phash(as_seen(image), hash_size=SIDE).hash
    return np.packbits(bits).view(np.uint64)


def shared(table: Table, other: Table) -> Iterator[tuple[int, int, str]]:
    """Every question of ``table`` that ``other`` holds: its place, the place there, and why it is the same one."""
    same = {digest: place for place, digest in reversed([*enumerate(other.digests)])}  # the first of equal ones
    near = near_questions(table, other)
    for place, digest in enumerate(table.digests):
        if digest in same:
            yield place, same[digest], SAME_IMAGE
        elif place in near:
            yield place, near[place], NEAR_QUESTION


# -------------------------------------------------------------------------------------------- images


class NearImages:
    """Hashes, so kept that those near to another are found without a look at each; none is missed."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        self._bands = [_sorted_band(values) for values in _bands(hashes).T]

    def of(self, hashes: Hashes) -> Iterator[np.ndarray[Any, Any]]:
        """For each of ``hashes``, the places of the near ones here, in their order."""
        for start in range(0, len(hashes), AT_ONCE):
            some = hashes[start : start + AT_ONCE]
            pairs = [
                self._near_in(band, some, values) for band, values in zip(self._bands, _bands(some).T, strict=True)
            ]
            rows, places = np.divmod(np.unique(np.concatenate(pairs)), max(1, len(self._hashes)))
            yield from np.split(places, np.searchsorted(rows, np.arange(1, len(some))))

    def _near_in(self, band: _Band, asked: Hashes, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Near pairs, as row · images + place, among those that differ in at most one bit of a band."""
        order, begins = band
        probes = (values[:, None] ^ _FLIPS).ravel()
        first, counts = begins[probes], begins[probes + 1] - begins[probes]
        found = [np.empty(0, dtype=np.int64)]
        for some in _slices(counts):
            rows = np.repeat(np.arange(some.start, some.stop) // len(_FLIPS), counts[some])
            offsets = np.arange(counts[some].sum()) - np.repeat(counts[some].cumsum() - counts[some], counts[some])
            places = order[np.repeat(first[some], counts[some]) + offsets]
            near = np.bitwise_count(asked[rows] ^ self._hashes[places]).sum(axis=1) <= NEAR_BITS
            found.append(rows[near] * len(self._hashes) + places[near])
        return np.concatenate(found)


_Band = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
_FLIPS = np.array([0, *(1 << bit for bit in range(BAND_BITS))])


def _bands(hashes: Hashes) -> np.ndarray[Any, Any]:
    """Images x bands: the bits of each band as a number."""
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), BITS // 8), axis=1)
    parts = bits[:, : BANDS * BAND_BITS].reshape(len(hashes), BANDS, BAND_BITS)
    return parts @ (1 << np.arange(BAND_BITS))


def _sorted_band(values: np.ndarray[Any, Any]) -> _Band:
    """Places by their value in a band, and where each value begins among them."""
    order = np.argsort(values, kind="stable")
    return order, np.searchsorted(values[order], np.arange((1 << BAND_BITS) + 1))


def _slices(counts: np.ndarray[Any, Any]) -> Iterator[slice]:
    """Parts of a list with about `PAIRS_AT_ONCE` pairs each."""
    part = counts.cumsum() // PAIRS_AT_ONCE
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(counts)]
    return (slice(start, stop) for start, stop in itertools.pairwise(cuts) if stop > start)


# --------------------------------------------------------------------------------------------- texts


def near_questions(table: Table, other: Table) -> dict[int, int]:
    """By place of a question, the place of one with a near image and a near text."""
    texts = [_words(text) for text in other.texts]
    found: dict[int, int] = {}
    for row, near in enumerate(other.near.of(table.hashes)):
        if len(near) and (place := _near_text(_words(table.texts[row]), texts, near.tolist())) is not None:
            found[row] = place
    return found


def _words(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))


def _near_text(text: str, texts: list[str], near: list[int]) -> int | None:
    """Place of a near text among those with a near image."""
    candidates = {place: texts[place] for place in near}
    best = process.extract(text, candidates, scorer=fuzz.token_set_ratio, score_cutoff=NEAR_TEXT, limit=None)
    return next((place for other, _, place in best if _same_numbers(text, other)), None)


def _same_numbers(one: str, other: str) -> bool:
    """Whether the numbers of one text are all in the other."""
    return _one_in_other(*(Counter(re.findall(r"\d+", text)) for text in (one, other)))


def same_question(one: str, other: str) -> bool:
    """Whether two texts ask the same of one picture.

    They have the same numbers and names (`A` and `ABC`, not `a`; one may name more), and of what is left without
    `FILLER` and endings nine tenths in common, both ways: `area` is not `perimeter`.
    """
    if not _same_numbers(one, other) or not _one_in_other(_names(one), _names(other)):
        return False
    first, second = _content(one), _content(other)
    return 2 * (first & second).total() >= SHARED_WORDS * (first.total() + second.total())


def _one_in_other(one: Counter[str], other: Counter[str]) -> bool:
    return one <= other or other <= one


def _names(text: str) -> Counter[str]:
    """What stands for a point, a side or a variable: single letters, and capitals in a text that has others."""
    words = [word for word in WORD.findall(text) if word.isalpha() and word.isascii() and word != "a"]
    written_large = text.upper() == text
    return Counter(word.lower() for word in words if len(word) == 1 or (word.isupper() and not written_large))


def _content(text: str) -> Counter[str]:
    words = WORD.findall(text.lower())
    content = [_ENDING.sub("", word) for word in words if word not in FILLER]
    return Counter(content or words)

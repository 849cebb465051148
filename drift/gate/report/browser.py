"""All models' answers to all questions, packed for the page's browser: JSON, gzip, base64.

The page stays below a budget of bytes. What does not fit whole is shown by up to `SHOWN` questions of each benchmark:
their pictures get smaller first, then long replies lose their middle. All of it is then whole in
`answers/BENCHMARK.answers.html` beside the page.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from drift.evaluate.samples import Example, Sample
from drift.gate.report.models import Model
from drift.gate.report.replies import parts

SHOWN = 200
"""Questions of a benchmark in the page itself, where not all of them fit."""
BUDGET = 6_500_000
"""Characters of the packed answers in the page, so that all of it stays below 8 MB."""
SIDES = (None, 192, 128, 96, 64, 40)
"""Pixels of a picture's longer side, the largest that fits; None: as it was kept."""
SOME = 25
"""Questions of each benchmark by which it is seen how large all would be."""
CLIPS = (20_000, 8_000, 4_000, 2_000, 1_000, 500, 250, 120)
"""Characters that a reply's thinking, and the rest of it, may each have."""

NEAR = 1.1
"""How far what some questions take may be above the budget, by chance."""

Key = tuple[str, str]
"""Benchmark and index."""
Answers = list[list[Sample]]
"""Of each model its samples of one question."""


@dataclass(frozen=True)
class Packed:
    """The answers of some questions as text, how many there are, and how much of them is shown."""

    text: str
    shown: int
    total: int
    clip: int | None
    """Characters that long replies were cut to; None where nothing was cut."""

    @property
    def whole(self) -> bool:
        return self.shown == self.total and self.clip is None


@dataclass(frozen=True)
class Questions:
    """Questions with all models' answers to them, and pictures."""

    models: Sequence[Model]
    candidate: str
    answers: Mapping[Key, Answers]
    pictures: Mapping[Key, bytes]

    def of(self, benchmark: str) -> Questions:
        """Those of one benchmark."""
        return self._with({key: answers for key, answers in self.answers.items() if key[0] == benchmark})

    def spread(self, count: int) -> Questions:
        """At most ``count`` of each benchmark: those with a picture, then others, each spread evenly."""
        chosen = {key for name in self.benchmarks for key in self._chosen(name, count)}
        return self._with({key: answers for key, answers in self.answers.items() if key in chosen})

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.answers))

    def _chosen(self, benchmark: str, count: int) -> list[Key]:
        keys = [key for key in self.answers if key[0] == benchmark]
        pictured = _evenly([key for key in keys if key in self.pictures], count)
        return pictured + _evenly([key for key in keys if key not in self.pictures], count - len(pictured))

    def _with(self, answers: Mapping[Key, Answers]) -> Questions:
        return Questions(self.models, self.candidate, answers, self.pictures)


def questions(models: Sequence[Model], candidate: str, examples: Iterable[Example]) -> Questions:
    """In the order of the unmodified VLM's samples; ``models`` begins with it."""
    found: dict[Key, Answers] = {}
    for place, model in enumerate(models):
        for sample in model.samples:
            known = found.setdefault((sample.benchmark, sample.index), [[] for _ in models])
            known[place].append(sample)
    return Questions(models, candidate, found, {(one.benchmark, one.index): one.image for one in examples})


def pack_page(asked: Questions, budget: int = BUDGET) -> Packed:
    """What the page shows of all questions."""
    total, some = len(asked.answers), asked.spread(SOME)
    if len(_packed(some, _pictures(some, None), None)) * total <= budget * NEAR * len(some.answers):
        packed = pack(asked, total)
        if len(packed.text) <= budget:
            return packed
    return pack(asked.spread(SHOWN), total, budget)


def pack(asked: Questions, total: int, budget: int | None = None) -> Packed:
    """``asked`` within ``budget`` characters; None: whole. ``total``: of how many questions they are."""
    if budget is None:
        return Packed(_packed(asked, _pictures(asked, None), None), len(asked.answers), total, None)
    some = asked.spread(SOME)
    share = budget * len(some.answers) / max(len(asked.answers), 1)
    pictures = _pictures(asked, next((side for side in SIDES if _size(_pictures(some, side)) <= share / 2), SIDES[-1]))
    for clip in _clips(asked):
        if len(_packed(some, pictures, clip)) > share * NEAR:
            continue  # far too large: not worth packing all
        text = _packed(asked, pictures, clip)
        if len(text) <= budget:
            return Packed(text, len(asked.answers), total, clip)
    return pack(asked.spread(_most(asked) // 2), total, budget)  # very many models or samples


def _clips(asked: Questions) -> tuple[int | None, ...]:
    """First none, then those that leave anything out."""
    longest = max((len(text) for sample in _samples(asked) for text in parts(sample)), default=0)
    return (None, *(clip for clip in CLIPS if clip < longest))


def _most(asked: Questions) -> int:
    return max(len(asked.of(name).answers) for name in asked.benchmarks)


def _packed(asked: Questions, pictures: Mapping[Key, str], clip: int | None) -> str:
    content = json.dumps(_content(asked, pictures, clip), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(content.encode(), compresslevel=6, mtime=0)).decode()


def _content(asked: Questions, pictures: Mapping[Key, str], clip: int | None) -> dict[str, Any]:
    names, benchmarks = [model.name for model in asked.models], asked.benchmarks
    return {
        "models": names,
        "candidate": names.index(asked.candidate),
        "benchmarks": benchmarks,
        "questions": [
            _question(benchmarks.index(key[0]), key, answers, pictures.get(key, ""), clip)
            for key, answers in asked.answers.items()
        ],
    }


def _question(benchmark: int, key: Key, answers: Answers, picture: str, clip: int | None) -> dict[str, Any]:
    first = next(sample for samples in answers for sample in samples)
    return {
        "b": benchmark,
        "i": key[1],
        "q": first.question,
        "g": first.gold,
        "c": first.category,
        "p": picture,
        "a": [[_answer(sample, clip) for sample in samples] for samples in answers],
    }


def _answer(sample: Sample, clip: int | None) -> list[str]:
    """Status, answer, why it ended, thinking, the rest of the reply, error."""
    thinking, rest = (clipped(text, clip) for text in parts(sample))
    return [sample.status, sample.answer or "", sample.finish_reason or "", thinking, rest, sample.error or ""]


def clipped(text: str, size: int | None) -> str:
    """The beginning and the end of a long text, ``size`` characters together: answers stand at the end."""
    if size is None or len(text) <= size:
        return text
    head, tail = text[: size // 3], text[len(text) - (size - size // 3) :]
    return f"{head} ⟨… {len(text) - size:,} characters left out …⟩ {tail}"


def _pictures(asked: Questions, side: int | None) -> dict[Key, str]:
    return {key: _picture(asked.pictures[key], side) for key in asked.answers if key in asked.pictures}


def _picture(content: bytes, side: int | None) -> str:
    """In base64."""
    if side is None:
        return base64.b64encode(content).decode()
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=60)
    return base64.b64encode(buffer.getvalue()).decode()


def _size(pictures: Mapping[Key, str]) -> int:
    return sum(map(len, pictures.values()))


def _samples(asked: Questions) -> Iterable[Sample]:
    return (sample for answers in asked.answers.values() for samples in answers for sample in samples)


def _evenly(keys: list[Key], count: int) -> list[Key]:
    """``count`` of them, spread; all where there are no more."""
    if count <= 0 or len(keys) <= count:
        return keys[: max(count, 0)]
    return [keys[place * len(keys) // count] for place in range(count)]

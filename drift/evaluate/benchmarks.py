"""Benchmark tables in VLMEvalKit's format: tab-separated, one question a row, its image in base64.

Columns: index, image, question, answer, and those of the benchmark's form (`drift.config.catalog`); in the plain form,
optional: options A to H, category, group. An image cell of at most 64 characters is the index of the row that holds
the image.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from drift.config.catalog import KNOWN
from drift.config.evaluate import BenchmarkConfig, EvaluateConfig
from drift.data.problems.tsv import Row, image_cell, read_tsv
from drift.evaluate.formats import READERS, Asked
from drift.evaluate.samples import Example
from drift.ground.errors import DataError
from drift.inference.images import decode_image
from drift.verdicts.answers import AnswerForm

COLUMNS = ("index", "image", "question", "answer")
EXAMPLES = 200  # per benchmark
EXAMPLE_PIXELS = (256, 256)
MAX_ASPECT_RATIO = 200  # Qwen's image processor raises above it
SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")


@dataclass(frozen=True)
class Item:
    """One question. ``image`` is the encoded file; None if the row cannot be asked, and ``fault`` says why."""

    index: str
    text: str
    """The question with its options, as it is asked."""
    gold: str
    choices: tuple[str, ...]
    """Option texts, A first; empty text where a letter is not used; none for open questions."""
    form: AnswerForm
    category: str
    group: str
    """Items of one group are not independent: they share an image, or the table says so (`drift.evaluate.formats`)."""
    part: str
    image: bytes | None
    size: tuple[int, int]
    """Width and height in pixels."""
    fault: str | None = None
    cells: Row = field(default_factory=dict, repr=False)
    """The row as it stands, without the image."""


@dataclass(frozen=True)
class Benchmark:
    """A table as read, with the digest of its file."""

    name: str
    config: BenchmarkConfig
    path: Path
    sha256: str
    items: list[Item]
    samples: int = 1
    """Answers to each item."""
    temperature: float = 0.0
    seed: int = 0

    @property
    def failed(self) -> list[Item]:
        return [item for item in self.items if item.fault]


def read_benchmarks(config: EvaluateConfig) -> list[Benchmark]:
    """All tables of the section, by name. Raises DataError, see `read_benchmark`."""
    return [read_benchmark(name, config) for name in sorted(config.benchmarks)]


def read_benchmark(name: str, config: EvaluateConfig) -> Benchmark:
    """The first `limit` rows of a benchmark's table.

    Rows that cannot be asked are kept with their fault, since they count as wrong. Raises DataError if the file is
    missing, not a table, lacks a column, has no rows or the same index twice, has more than `max_failed` faults, or has
    the name of a published benchmark and other contents.
    """
    benchmark = config.asked(name)
    path = config.table(name)
    rows = list(read_tsv(path, _columns(benchmark)))
    _require_published(name, path)
    images = {row["index"]: row["image"] for row in rows}
    if not rows or len(images) < len(rows):
        raise DataError(f"{path}: {'no rows' if not rows else 'the same index twice'}; write one row per question")
    items = [_item(row, images, benchmark.format) for row in rows[: config.limit]]
    table = Benchmark(
        name,
        benchmark,
        path,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        items,
        samples=config.samples_of(name),
        temperature=config.temperature_of(name),
        seed=config.seed,
    )
    if len(table.failed) > config.max_failed * len(items):
        first = table.failed[0]
        raise DataError(
            f"{path}: {len(table.failed)} of {len(items)} rows cannot be asked (index {first.index}: {first.fault}), "
            f"more than evaluate.max_failed ({config.max_failed:g}); repair the table or raise the limit"
        )
    return table


def check_table(name: str, config: EvaluateConfig) -> None:
    """Raise what `read_benchmark` would raise for a missing file, column or row, or for other contents than published.

    Decodes no image, so it takes seconds where reading takes minutes.
    """
    benchmark = config.benchmarks[name]
    path = config.table(name)
    if next(read_tsv(path, _columns(benchmark)), None) is None:
        raise DataError(f"{path}: no rows; write one row per question")
    _require_published(name, path)


def count_questions(name: str, config: EvaluateConfig) -> int | None:
    """Answers to a benchmark's rows: known of a published one, else counted; without a table of the limit, if any."""
    path = config.table(name)
    if name not in KNOWN and not path.is_file():
        return config.limit and config.limit * config.samples_of(name)
    rows = KNOWN[name].rows if name in KNOWN else sum(1 for _ in read_tsv(path, _columns(config.benchmarks[name])))
    return min(rows, config.limit or rows) * config.samples_of(name)


def _columns(benchmark: BenchmarkConfig) -> tuple[str, ...]:
    """The columns that a table of this form has."""
    return COLUMNS + (KNOWN[benchmark.format].required if benchmark.format in KNOWN else ())


def examples(benchmark: Benchmark) -> list[Example]:
    """`EXAMPLES` items spread over the table, with small pictures; the same for every model."""
    items = [item for item in benchmark.items if item.image is not None]
    count = min(EXAMPLES, len(items))
    return [_example(benchmark.name, items[place * len(items) // count]) for place in range(count)]


def _example(name: str, item: Item) -> Example:
    image = decode_image(item.image or b"", f"{name} index {item.index}")
    image.thumbnail(EXAMPLE_PIXELS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return Example(name, item.index, buffer.getvalue())


def _require_published(name: str, path: Path) -> None:
    """A table under a published benchmark's name is that table."""
    if name not in KNOWN:
        return
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if md5 != KNOWN[name].md5:
        raise DataError(
            f"{path}: MD5 {md5}, but the published {name} has {KNOWN[name].md5}; download it again, or give a table "
            f"of your own another name, with format: {name}"
        )


def _item(row: Row, images: dict[str, str], form: str) -> Item:
    cell = image_cell(row, images)
    image, size, fault = _decoded(cell)
    asked, wrong = _asked(row, form)
    fault = wrong or fault
    return Item(
        index=row["index"],
        text=asked.text,
        gold=asked.gold,
        choices=asked.choices,
        form=asked.answer_form,
        category=asked.category,
        group=asked.group or hashlib.sha256(cell.encode()).hexdigest()[:16],
        part=asked.part,
        image=None if fault else image,
        size=size,
        fault=fault,
        cells={name: text for name, text in row.items() if name != "image"},
    )


def _asked(row: Row, form: str) -> tuple[Asked, str | None]:
    """What the row says, and why it cannot be asked, if so."""
    try:
        asked = READERS[form](row)
    except ValueError as error:
        return Asked(row["question"], row["answer"]), str(error)
    if not row["question"] or not asked.gold:
        return asked, "no question" if not row["question"] else "no answer"
    token = SPECIAL_TOKEN.search(asked.text)
    return asked, f"the question holds the special token {token.group()}" if token else None


def _decoded(cell: str) -> tuple[bytes | None, tuple[int, int], str | None]:
    """Bytes and size of a base64 image, or why it has none."""
    if not cell or cell.startswith("["):
        return None, (0, 0), "no image" if not cell else "several images in one row"
    try:
        image = base64.b64decode(cell, validate=True)
        size = decode_image(image, "image").size
    except (binascii.Error, DataError):
        return None, (0, 0), "undecodable image"
    if max(size) > MAX_ASPECT_RATIO * min(size):
        return None, size, f"image of {size[0]} x {size[1]} px"
    return image, size, None

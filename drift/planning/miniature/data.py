"""Problem pool, replay set and benchmark tables as files.

The pool (`pool.parquet`) looks like ThinkLite-VL's: ``problem`` begins with ``<image>``, ``answer``, ``image``
(encoded bytes), ``source``; some rows are dirty as real ones are. It also has ``text_problem``, scene and question in
words. The replay set (`replay.parquet`) has the same columns with direct perception answers. Benchmarks are
tab-separated tables in VLMEvalKit's form, of the test split only and equal for every seed; pool and replay use the
training split only.
"""

from __future__ import annotations

import base64
import csv
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from drift.planning.miniature import measure, render, world
from drift.planning.miniature.world import MODULUS, Exchange, Scene, Split

POOL_ROWS = 700
REPLAY_ROWS = 256
BENCHMARKS = {
    "MiniMath2": ("two", 250),
    "MiniMath3": ("three", 300),
    "MiniDigit": ("look_up", 500),
    "MiniRead": ("read", 500),
}
DIRT = {"wrong answer": 10, "duplicate": 6, "empty answer": 4, "broken image": 4, "tiny image": 3, "image token": 3}

Row = dict[str, Any]
_SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("text_problem", pa.string()),
        ("answer", pa.string()),
        ("image", pa.binary()),
        ("source", pa.string()),
    ]
)


def write_pool(path: Path, rng: random.Random) -> None:
    """Reasoning problems of two and three operations, `DIRT` among them."""
    rows = [_reasoning_row(rng) for _ in range(POOL_ROWS - DIRT["duplicate"])]
    dirty = iter(rng.sample(range(len(rows)), sum(DIRT.values())))
    for kind, count in DIRT.items():
        for _ in range(count):
            position = next(dirty)
            if kind == "duplicate":
                rows.append(dict(rows[position]))
            else:
                rows[position] = _SOILERS[kind](rows[position])
    rng.shuffle(rows)
    _write_rows(path, rows)


def write_replay(path: Path, rng: random.Random) -> None:
    """Perception questions with direct answers, look-ups and readings in turn."""
    rows = []
    for place in range(REPLAY_ROWS):
        scene = world.sample_scene(rng, Split.TRAIN)
        exchange = world.read_out(scene) if place % 2 else world.look_up(scene, rng.choice(world.LABELS))
        rows.append(_row(scene, exchange, "replay", rng))
    _write_rows(path, rows)


def write_benchmarks(directory: Path) -> None:
    """One table per benchmark, `<name>.tsv`: index, image (base64), question, answer, category."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (kind, count) in BENCHMARKS.items():
        rng = random.Random(f"benchmark-{name}")
        with (directory / f"{name}.tsv").open("w", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(["index", "image", "question", "answer", "category"])
            for index in range(count):
                scene, exchange = measure.held_out_question(kind, rng)
                image = base64.b64encode(render.scene_png(scene, Split.TEST, rng)).decode()
                table.writerow([index, image, exchange.question, exchange.answer, _category(kind, exchange)])


def _category(kind: str, exchange: Exchange) -> str:
    if kind == "look_up":
        return f"label {exchange.question.split()[2]}"
    if kind == "read":
        return "row"
    return "with product" if "*" in exchange.question else "sums only"


def _reasoning_row(rng: random.Random) -> Row:
    scene = world.sample_scene(rng, Split.TRAIN)
    operations = rng.choice((2, 3))
    expression = world.sample_problem_in(scene, rng, operations, Split.TRAIN)
    return _row(scene, world.compute(scene, expression, chain=False), f"math{operations}", rng)


def _row(scene: Scene, exchange: Exchange, source: str, rng: random.Random) -> Row:
    image = render.scene_png(scene, Split.TRAIN, rng)
    words = f"[ {scene.text} ] {exchange.question}"
    asked = {"problem": f"<image>{exchange.question}", "text_problem": words, "answer": exchange.answer}
    return {**asked, "image": image, "source": source}


def _write_rows(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path, compression="zstd")


def _tiny_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3), "white").save(buffer, "PNG")
    return buffer.getvalue()


_SOILERS: dict[str, Callable[[Row], Row]] = {
    "wrong answer": lambda row: row | {"answer": str((int(row["answer"]) + 1) % MODULUS)},
    "empty answer": lambda row: row | {"answer": ""},
    "broken image": lambda row: row | {"image": row["image"][:40]},
    "tiny image": lambda row: row | {"image": _tiny_png()},
    "image token": lambda row: row | {"problem": f"{row['problem']} <|image_pad|>"},
}

"""The shipped miniature world, and small training sets made from it."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drift.planning.miniature import render, world
from drift.planning.miniature.world import Split

ASSETS = Path(__file__).parent.parent / "drift" / "planning" / "miniature" / "assets"
VLM, EXPERT, BASE, TEACHER = (ASSETS / name for name in ("vlm", "expert", "base", "teacher"))


def training_set(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` gold chains and readings, as `drift curate` would write them, in ``folder``/train.parquet."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([_row(place, rng) for place in range(count)]), folder / "train.parquet")
    return folder


def _row(place: int, rng: random.Random) -> dict:
    scene = world.sample_scene(rng, Split.TRAIN)
    exchange = world.read_out(scene)
    if place % 4:
        expression = world.sample_problem_in(scene, rng, rng.choice((2, 3)), Split.TRAIN)
        exchange = world.compute(scene, expression, chain=True)
    return {
        "id": f"{place:016x}",
        "kind": "cot" if place % 4 else "direct",
        "images": [{"bytes": render.scene_png(scene, Split.TRAIN, rng), "path": None}],
        "messages": [
            {"role": "user", "content": exchange.question},
            {"role": "assistant", "content": exchange.answer},
        ],
        "text_problem": f"[ {scene.text} ] {exchange.question}",
    }

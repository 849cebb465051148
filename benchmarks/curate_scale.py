"""Peak memory and time of `drift curate` on so many problems: `python -m benchmarks.curate_scale 100000 FOLDER`.

Four chains of 2,000 characters for each problem, a drawing of 64 pixels each; one chain in two is right.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from drift.config.data import CurateConfig
from drift.data import tables
from drift.data.selection.curation import curate
from drift.ground.artifacts import write_provenance

SAMPLES, CHARACTERS, SIDE = 4, 2000, 64
PER_PART = 200
WORDS = [f"{one}{two}{three}" for one in "bdfgklmnprst" for two in "aeiou" for three in ("", "n", "r", "st")]


def write_pool(folder: Path, problems: int) -> None:
    """Problems and generations as `drift ingest` and `drift generate` leave them."""
    (folder / "problems").mkdir(parents=True)
    (folder / "generations").mkdir()
    tables.write_rows(folder / "problems" / tables.PROBLEMS_FILE, map(problem_row, range(problems)), tables.PROBLEMS)
    write_provenance(folder / "problems", "ingest", config={}, inputs={})
    lines = (json.dumps(row) for number in range(problems) for row in _generations(number))
    for part, first in enumerate(range(0, problems * SAMPLES, PER_PART)):
        text = "\n".join(next(lines) for _ in range(min(PER_PART, problems * SAMPLES - first)))
        (folder / "generations" / f"part-00000-{part:05d}.jsonl").write_text(text + "\n")


def problem_row(number: int) -> dict[str, Any]:
    """A row of `problems.parquet` with a drawing of its own."""
    buffer = io.BytesIO()
    coarse = Image.frombytes("RGB", (8, 8), random.Random(number).randbytes(192))
    coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "PNG")
    gold = str(number % 97)
    return {
        "id": f"{number:016x}", "source": "scale", "problem": f"What is the value of x in figure {number}?",
        "gold": gold, "choices": None, "answer_kind": "number", "images": [{"bytes": buffer.getvalue(), "path": None}],
        "image_sha256": [""], "width": SIDE, "height": SIDE,
    }  # fmt: skip


def _generations(number: int) -> Iterator[dict[str, Any]]:
    reasoning = " ".join(random.Random(number).choices(WORDS, k=CHARACTERS // 5))[:CHARACTERS]
    for sample in range(SAMPLES):
        answer = number % 97 + sample % 2
        text = f"<think>{sample} {reasoning}</think>\n\n\\boxed{{{answer}}}"
        yield {
            "id": f"{number:016x}", "sample": sample, "text": text, "reasoning": None, "finish_reason": "stop",
            "usage": {"prompt_tokens": 90, "completion_tokens": 500}, "seed": sample, "model": "t", "fingerprint": "f",
        }  # fmt: skip


def main(problems: int, folder: Path, settings: dict[str, Any]) -> None:
    """One line: what was kept, how long it took, and the most memory that was resident."""
    if not folder.exists():
        write_pool(folder, problems)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    out = folder / f"curated-{time.time_ns()}"
    report = curate(CurateConfig(keep=None, **settings), folder / "problems", folder / "generations", out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "problems": report.problems, "generations": report.generations, "kept": report.kept,
        "seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(time.process_time(), 1),
        "megabytes_before": before >> 10, "megabytes_at_most": peak >> 10,
    }))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})

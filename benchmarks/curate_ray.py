"""Time of `drift curate` on expression answers, alone and by Ray: `python -m benchmarks.curate_ray 2000 FOLDER 1 2`.

One chain for each of so many problems; no two answers are alike. After FOLDER: numbers of Ray's workers; 0 is no Ray,
one process for each core.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.curate_scale import problem_row
from drift.config.data import CurateConfig
from drift.data import tables
from drift.data.selection.curation import curate
from drift.data.selection.distributed import on_ray
from drift.data.selection.verdicts import HERE
from drift.ground.artifacts import write_provenance

COMPARED = (tables.TRAIN_FILE, tables.REJECTS_FILE, tables.FUNNEL_FILE)


def write_pool(folder: Path, problems: int) -> None:
    """Golds are fractions of x and y; every other chain is right, with its terms in another order."""
    (folder / "problems").mkdir(parents=True)
    (folder / "generations").mkdir()
    tables.write_rows(folder / "problems" / tables.PROBLEMS_FILE, map(_problem, range(problems)), tables.PROBLEMS)
    write_provenance(folder / "problems", "ingest", config={}, inputs={})
    lines = (json.dumps(row) + "\n" for row in _generations(problems))
    (folder / "generations" / "part-00000-00000.jsonl").write_text("".join(lines))


def _problem(number: int) -> dict[str, Any]:
    gold = f"\\frac{{x^{{{number}}}+1}}{{y+\\sqrt{{{number}}}}}"
    return problem_row(number) | {"gold": gold, "answer_kind": "expression"}


def _generations(problems: int) -> Iterator[dict[str, Any]]:
    for number in range(problems):
        answer = f"\\frac{{1+x^{{{number}}}}}{{\\sqrt{{{number + number % 2}}}+y}}"
        text = f"<think>We divide.</think>\n\n\\boxed{{{answer}}}"
        yield {"id": f"{number:016x}", "sample": 0, "text": text, "finish_reason": "stop", "model": "t"}


def main(problems: int, folder: Path, workers: list[int]) -> None:
    """A line for each number of workers: seconds, what was kept, and a hash over the three files."""
    if not folder.exists():
        write_pool(folder, problems)
    for count in workers:
        out = folder / f"curated-{time.time_ns()}"
        started = time.monotonic()
        with on_ray("local", num_cpus=count) if count else contextlib.nullcontext(HERE) as deciding:
            ready = time.monotonic()
            report = curate(CurateConfig(keep=None), folder / "problems", folder / "generations", out, deciding)
        content = b"".join((out / name).read_bytes() for name in COMPARED)
        print(json.dumps({
            "workers": count, "seconds": round(report.seconds, 1), "seconds_before": round(ready - started, 1),
            "kept": report.kept, "sha256": hashlib.sha256(content).hexdigest()[:16],
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), [int(count) for count in sys.argv[3:]])

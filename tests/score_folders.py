"""Score folders with given answers, written as `drift evaluate` writes them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from drift.config.catalog import KNOWN, PLAIN
from drift.config.evaluate import BenchmarkConfig
from drift.evaluate.samples import Example, Sample, write_samples
from drift.evaluate.scores import Scores, role_mean, score_benchmarks, write_scores

ROLES = {
    "Sums": "reasoning",
    "Angles": "reasoning",
    "WeMath": "reasoning",
    "Colours": "perception",
    "Words": "perception",
}


def write_score_folder(
    folder: Path,
    right: Mapping[str, str],
    *,
    groups: Mapping[str, str] | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    failed: int = 0,
    protocol: str = "one",
    data: str = "one",
) -> Path:
    """A folder named for its label. `right` maps a benchmark to its answers: `1` right, `0` wrong.

    `groups` maps a benchmark to one letter per question, `parts` to each one's place in the group; `failed` wrong
    answers of the first benchmark are failures.
    """
    folder.mkdir(parents=True)
    samples = []
    for name, marks in right.items():
        letters = (groups or {}).get(name) or [str(place) for place in range(len(marks))]
        places = (parts or {}).get(name) or [""] * len(marks)
        samples += [
            _sample(name, str(index), mark == "1", letter, place)
            for index, (mark, letter, place) in enumerate(zip(marks, letters, places, strict=True))
        ]
    wrong = [place for place, sample in enumerate(samples) if not sample.correct][:failed]
    for place in wrong:
        samples[place] = replace(samples[place], status="failed", raw=None, answer=None, finish_reason=None)
    table = score_benchmarks(samples, {name: _config(name) for name in right}, 0.95)
    write_samples(folder, samples, [Example(sample.benchmark, sample.index, _png()) for sample in samples[:2]])
    write_scores(
        folder,
        Scores(
            label=folder.name,
            protocol={"name": "rule", "note": protocol},
            protocol_fingerprint=hashlib.sha256(protocol.encode()).hexdigest(),
            data_fingerprint=hashlib.sha256(data.encode()).hexdigest(),
            model_sha256=hashlib.sha256(json.dumps([folder.name, *right.items()]).encode()).hexdigest(),
            confidence=0.95,
            benchmarks=table,
            reasoning=role_mean(table, "reasoning"),
            perception=role_mean(table, "perception"),
        ),
    )
    return folder


def _config(name: str) -> BenchmarkConfig:
    return BenchmarkConfig(role=ROLES[name], format=name if name in KNOWN else PLAIN)


def _sample(benchmark: str, index: str, correct: bool, group: str, part: str) -> Sample:
    return Sample(
        benchmark=benchmark,
        role=ROLES[benchmark],
        index=index,
        group=group,
        correct=correct,
        answer="5" if correct else "4",
        gold="5",
        raw="<think> 2 + 3 </think> \\boxed{5}" if correct else "<b>4</b>",
        thinking="2 + 3" if correct else None,
        finish_reason="stop",
        status="correct" if correct else "incorrect",
        category="",
        part=part,
        question="What is 2 + 3?",
        error=None,
    )


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "navy").save(buffer, "PNG")
    return buffer.getvalue()

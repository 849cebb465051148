"""Stored replies judged again, by today's rules or by a judge: nothing is asked.

A score folder holds all that the model wrote (`samples.parquet`) and how it was asked (`provenance.json`). Who judges
may be another now; what was asked may not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.config.file import load_section
from drift.config.section import validate
from drift.evaluate import overlaps
from drift.evaluate.benchmarks import Benchmark, read_benchmarks
from drift.evaluate.collect import Replies
from drift.evaluate.evaluation import EvaluateReport, Origin, data_fingerprint, protocol_of, score
from drift.evaluate.questions import describe_asking, question_text
from drift.evaluate.samples import Sample, read_samples
from drift.evaluate.scores import Scores, read_scores
from drift.ground.artifacts import PROVENANCE, read_provenance, staged
from drift.ground.errors import DataError
from drift.inference.reply import Reply
from drift.verdicts.extract import split_thinking


def stored_section(replies: Path, given: dict[str, Any], overrides: Sequence[str]) -> EvaluateConfig:
    """The section that a score folder was made with, with ``given`` and the overrides on top. Raises ConfigError."""
    stored = read_provenance(replies)["config"]
    nulls = [f"{key}=null" for key, value in stored.items() if value is None and not given.get(key)]
    return load_section(EvaluateConfig, "evaluate", None, [*nulls, *overrides], {**stored, **_set(given)})


def _set(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def rescore(
    config: EvaluateConfig, *, replies: Path, out: Path, label: str | None = None, training_set: Path | None = None
) -> EvaluateReport:
    """Judge the replies in the score folder ``replies`` and write another one into ``out``.

    ``config``: see `stored_section`. Raises DataError if it asks otherwise than the replies were asked, or if the
    tables are others now; besides as `evaluate` does.
    """
    started = time.monotonic()
    scores, made = read_scores(replies), read_provenance(replies)
    _require_same_asking(config, validate(EvaluateConfig, made["config"], where=str(replies / PROVENANCE)), replies)
    benchmarks, protocol = read_benchmarks(config), protocol_of(config)
    if (now := data_fingerprint(benchmarks)) != scores.data_fingerprint:
        raise DataError(
            f"{replies}: its questions are of other tables ({scores.data_fingerprint[:12]}) than those in "
            f"{config.data} ({now[:12]}); give the folder of the same tables as --data"
        )
    known = _replies(benchmarks, read_samples(replies), replies)
    with staged(out) as folder:
        found = overlaps.find_overlaps(benchmarks, training_set)
        overlaps.check_overlaps(config, benchmarks, found, folder)
        rescored = score(config, benchmarks, protocol, known, found, _origin(scores, made, replies, label), folder)
    return EvaluateReport(rescored, time.monotonic() - started)


def _origin(scores: Scores, made: dict[str, Any], replies: Path, label: str | None) -> Origin:
    """Of the model that was asked then. A server's sampling was not neutral before that was sent."""
    neutral = scores.protocol.get("neutral", scores.protocol.get("inference") != "endpoint")
    return Origin(
        label or scores.label,
        scores.model_sha256,
        inputs={"replies": replies},
        more={"rescored": {"created": made["created"], "inputs": made["inputs"]}},
        asked={"neutral": neutral},
    )


def _require_same_asking(config: EvaluateConfig, stored: EvaluateConfig, replies: Path) -> None:
    now, then = describe_asking(config), describe_asking(stored)
    for key in {**now, **then}:
        if now.get(key) != then.get(key):
            raise DataError(
                f"--rescore {replies}: asked with {key} {then.get(key)!r}, now {now.get(key)!r}; leave it as it was, "
                "or ask again"
            )


def _replies(benchmarks: Sequence[Benchmark], samples: Sequence[Sample], folder: Path) -> Replies:
    """The replies as they came, by benchmark and run. Raises DataError for a question that reads otherwise now."""
    stored = {(sample.benchmark, sample.sample, sample.index): sample for sample in samples}
    found: Replies = {benchmark.name: [{} for _ in range(benchmark.samples)] for benchmark in benchmarks}
    for benchmark in benchmarks:
        texts = {item.index: question_text(item, benchmark.config.prompt) for item in benchmark.items}
        for number, run in enumerate(found[benchmark.name]):
            for index, text in texts.items():
                sample = stored.get((benchmark.name, number, index))
                if sample is None or sample.question != text:
                    raise DataError(
                        f"{folder}: {benchmark.name} index {index}: this version asks another question; ask again"
                    )
                run[index] = _reply(sample)
    return found


def _reply(sample: Sample) -> Reply:
    if sample.raw is None:
        return Reply(error=sample.error or "no reply was kept")
    apart = sample.thinking if sample.thinking != split_thinking(sample.raw)[0] else None
    return Reply(sample.raw, sample.finish_reason, reasoning=apart)

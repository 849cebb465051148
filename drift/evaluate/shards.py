"""One model's evaluation in several steps: each asks the questions of a shard, and one judges all replies.

`answer` asks and scores nothing; `score_answers` scores and asks nothing. What comes out is what `evaluate` gives.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.data.chains.shards import Shard, named, require_all
from drift.evaluate import overlaps
from drift.evaluate.benchmarks import Benchmark, read_benchmarks
from drift.evaluate.collect import (
    ByKey,
    by_benchmark,
    collect,
    fingerprint,
    identity,
    read_replies,
    require_few_failed,
    write_failed,
)
from drift.evaluate.evaluation import EvaluateReport, Origin, kept_replies, protocol_of, score
from drift.ground.artifacts import read_json, staged, write_json, write_provenance
from drift.ground.claim import work_folder
from drift.ground.errors import DataError
from drift.inference.parts import part_files

logger = logging.getLogger(__name__)

FILE = "answers.json"
FAILED_FILE = "failed.jsonl"


@dataclass(frozen=True)
class AnswerReport:
    """Questions of the shard, and how many of them failed or were truncated."""

    asked: int
    failed: int
    truncated: int
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Numbers for the tracker."""
        counts = {name: float(getattr(self, name)) for name in ("asked", "failed", "truncated")}
        return {f"answer/{name}": value for name, value in counts.items()} | {"answer/seconds": self.seconds}


def answer(config: EvaluateConfig, *, model: str, label: str, shard: Shard, out: Path) -> AnswerReport:
    """Ask ``model`` the shard's questions, and write its replies into ``out``; see `evaluate` for the rest.

    Work goes on as there. Raises what `evaluate` raises for tables, model and server.
    """
    from drift.weights.storage.checkpoints import resolve

    started = time.monotonic()
    benchmarks = read_benchmarks(config)
    place = model if config.endpoint else str(resolve(model))
    with work_folder(kept_replies(config, benchmarks, place, label, shard), out) as folder:
        replies = collect(config, benchmarks, place, folder, shard)
        failed = write_failed(folder / FAILED_FILE, replies)
        who = identity(config, place)
        url = f"{config.endpoint.base_url} {model}" if config.endpoint else place
        said = {"label": label, "model": url, "identity": who, "fingerprint": fingerprint(config, benchmarks, who)}
        write_json(folder / FILE, said | shard.address())
        settings = config.model_dump(mode="json")
        write_provenance(folder, "answer", config=settings, inputs={"model": url}, shard=str(shard))
    truncated = sum(reply.finish_reason == "length" for reply in replies.values())
    logger.info("%s: %d replies of shard %s, %d failed", out, len(replies), shard, failed)
    return AnswerReport(len(replies), failed, truncated, time.monotonic() - started)


def score_answers(
    config: EvaluateConfig, *, answers: Sequence[Path], out: Path, training_set: Path | None = None
) -> EvaluateReport:
    """Judge the replies of all shards, and write what `evaluate` writes into ``out``; nothing is asked.

    Raises DataError if a shard is missing or of another model, or if it was asked otherwise than ``config`` says;
    besides as `evaluate` does.
    """
    started = time.monotonic()
    benchmarks, protocol = read_benchmarks(config), protocol_of(config)
    said = _said(answers)
    _require_same_asking(config, benchmarks, said, answers[0])
    replies = _replies(config, benchmarks, answers)
    with staged(out) as folder:
        found = overlaps.find_overlaps(benchmarks, training_set)
        overlaps.check_overlaps(config, benchmarks, found, folder)
        scores = score(
            config,
            benchmarks,
            protocol,
            by_benchmark(benchmarks, replies),
            found,
            _origin(config, said, answers, training_set),
            folder,
        )
    return EvaluateReport(scores, time.monotonic() - started)


def _said(answers: Sequence[Path]) -> dict[str, Any]:
    """What all shards say of themselves. Raises DataError if they are not all of one evaluation."""
    said = [dict(read_json(folder / FILE)) for folder in answers]
    require_all(list(zip(answers, said, strict=True)))
    for folder, one in zip(answers, said, strict=True):
        if one["label"] != said[0]["label"]:
            raise DataError(f"{folder}: replies of '{one['label']}', not of '{said[0]['label']}' as in {answers[0]}")
    return said[0]


def _require_same_asking(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], said: Mapping[str, Any], folder: Path
) -> None:
    if fingerprint(config, benchmarks, said["identity"]) != said["fingerprint"]:
        raise DataError(
            f"{folder}: asked other questions, or asked otherwise, than evaluate says now (tables, limit, samples, "
            "prompts, pixels, max_new_tokens, batch_size, dtype, endpoint); restore the settings, or ask again"
        )


def _replies(config: EvaluateConfig, benchmarks: Sequence[Benchmark], answers: Sequence[Path]) -> ByKey:
    failed = read_replies(folder / FAILED_FILE for folder in answers)
    require_few_failed(config, benchmarks, failed)
    return failed | read_replies(path for folder in answers for path in part_files(folder))


def _origin(
    config: EvaluateConfig, said: Mapping[str, Any], answers: Sequence[Path], training_set: Path | None
) -> Origin:
    inputs: dict[str, str | Path] = {"model": said["model"], **named("answers", answers)}
    inputs |= {"training set": training_set} if training_set else {}
    return Origin(said["label"], "" if config.endpoint else said["identity"], inputs)

"""Benchmarks in; one score table and per-sample rows out.

benchmarks  tables in VLMEvalKit's format, row by row
formats     what a row of each benchmark says
rule        the offline protocol: asks, extracts, compares
judged      the protocol with a judge: VLMEvalKit's judging, in a process of its own
vlmevalkit  what that process runs
generation  greedy answers of a local checkpoint
answers     the answer in a reply
samples     one answered question, and the table of all
columns     the headline numbers of each benchmark, unit by unit
scores      columns with intervals, means of roles

A protocol is a module with `describe` and `judge_all`: see `Protocol`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drift.artifacts import content_sha256, staged, write_provenance
from drift.config import EvaluateConfig
from drift.errors import DataError
from drift.evaluate.benchmarks import Benchmark, examples, read_benchmarks
from drift.evaluate.samples import Sample, write_samples
from drift.evaluate.scores import ROLES, Scores, role_mean, score_benchmarks, write_scores

if TYPE_CHECKING:
    from drift.evaluate.generation import Reply

logger = logging.getLogger(__name__)


class Protocol(typing.Protocol):
    """How a model's answers are judged; a module of this package is one."""

    def describe(self, config: EvaluateConfig) -> dict[str, Any]:
        """All that decides a score besides model and data. Scores of different descriptions are not compared."""

    def judge_all(
        self, config: EvaluateConfig, benchmarks: Sequence[Benchmark], replies: dict[str, dict[str, Reply]]
    ) -> list[Sample]:
        """A sample per item, in the tables' order."""


@dataclass(frozen=True)
class EvaluateReport:
    """What `evaluate` measured, and how long it took."""

    scores: Scores
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow: `reasoning/<benchmark>`, `perception/mean`, counts."""
        flat = {f"{role}/{name}": mean.mean for role in ROLES for name, mean in self.scores.columns(role).items()}
        means = {f"{role}/mean": mean.mean for role in ROLES if (mean := self.scores.role(role)) is not None}
        counts = ("n", "failed", "truncated", "unparsed", "undetermined")
        return (
            flat
            | means
            | {f"evaluate/{name}": float(self.scores.count(name)) for name in counts}
            | {"evaluate/seconds": self.seconds}
        )


def evaluate(config: EvaluateConfig, *, model: str, label: str, out: Path) -> EvaluateReport:
    """Ask ``model`` every question of the benchmarks and write `scores.json` and `samples.parquet` into ``out``.

    ``label`` names the model in tables. Raises DataError for a table that cannot be used or too many truncated
    answers (`max_truncated`), CheckpointError for a model that does not load.
    """
    from drift.checkpoints import resolve
    from drift.evaluate.rule import ask  # torch and transformers, which readers of scores do not need

    started = time.monotonic()
    benchmarks = read_benchmarks(config)
    protocol = _protocol(config)
    path = resolve(model)
    with staged(out) as folder:
        samples = protocol.judge_all(config, benchmarks, ask(config, benchmarks, path))
        _check_truncated(samples, config)
        scores = _scores(label, protocol.describe(config), benchmarks, samples, config, content_sha256(path))
        write_samples(folder, samples, [example for table in benchmarks for example in examples(table)])
        write_scores(folder, scores)
        inputs = {"model": path, **{f"benchmark {table.name}": table.path for table in benchmarks}}
        write_provenance(folder, "evaluate", config=config.model_dump(mode="json"), inputs=inputs, label=label)
    return EvaluateReport(scores, time.monotonic() - started)


def _protocol(config: EvaluateConfig) -> Protocol:
    """By rule, or with a judge that is known to answer."""
    from drift.evaluate import judged, rule

    if config.judge is None:
        return rule
    judged.check(config.judge)
    return judged


def _scores(
    label: str,
    protocol: dict[str, Any],
    benchmarks: Sequence[Benchmark],
    samples: Sequence[Sample],
    config: EvaluateConfig,
    model_sha256: str,
) -> Scores:
    table = score_benchmarks(samples, config.benchmarks, config.confidence)
    for name, score in table.items():
        if score.failed:
            logger.warning("%s: %d of %d questions could not be asked and count as wrong", name, score.failed, score.n)
    return Scores(
        label=label,
        protocol=protocol,
        protocol_fingerprint=_fingerprint(protocol),
        data_fingerprint=_fingerprint({benchmark.name: benchmark.sha256 for benchmark in benchmarks}),
        model_sha256=model_sha256,
        confidence=config.confidence,
        benchmarks=table,
        reasoning=role_mean(table, "reasoning"),
        perception=role_mean(table, "perception"),
        judge_url=config.judge.base_url if config.judge else None,
    )


def _check_truncated(samples: Sequence[Sample], config: EvaluateConfig) -> None:
    truncated = sum(sample.finish_reason == "length" for sample in samples)
    if truncated > config.max_truncated * len(samples):
        raise DataError(
            f"evaluate.max_truncated: {truncated} of {len(samples)} answers hit max_new_tokens "
            f"({config.max_new_tokens}), more than {config.max_truncated:g}; raise one of the two"
        )


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

"""One model over all benchmarks: asked, judged, scored, written.

A protocol is a module of this wing with `describe` and `judge_all`: see `Protocol`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.data.chains.shards import WHOLE, Shard
from drift.evaluate import overlaps
from drift.evaluate.benchmarks import Benchmark, examples, read_benchmarks
from drift.evaluate.samples import Sample, write_samples
from drift.evaluate.scores import ROLES, Scores, role_mean, score_benchmarks, write_scores
from drift.evaluate.table import deviations, overlapping, write_table
from drift.ground.artifacts import content_sha256, write_provenance
from drift.ground.claim import replies_folder, work_folder
from drift.ground.errors import DataError
from drift.inference.reply import Reply

logger = logging.getLogger(__name__)


class Protocol(typing.Protocol):
    """How replies are judged; a module of this package is one."""

    def describe(self, config: EvaluateConfig) -> dict[str, Any]:
        """All that decides a score besides model and data. Scores of different descriptions are not compared."""

    def judge_all(
        self,
        config: EvaluateConfig,
        benchmarks: Sequence[Benchmark],
        replies: Mapping[str, Sequence[Mapping[str, Reply]]],
    ) -> list[Sample]:
        """A sample per item and run (see `drift.evaluate.collect.Replies`), in the tables' order, run after run."""


@dataclass(frozen=True)
class EvaluateReport:
    """What `evaluate` measured, and how long it took."""

    scores: Scores
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """Columns that are far from their published numbers, and questions that other tables hold too."""
        return [*deviations(self.scores), *overlapping(self.scores)]

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


@dataclass(frozen=True)
class Origin:
    """Whose replies are scored, and where they come from."""

    label: str
    model_sha256: str
    inputs: Mapping[str, str | Path]
    """For the provenance, besides the tables."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """For the provenance too."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What the protocol says of the asking, where today's description is another."""


def evaluate(
    config: EvaluateConfig, *, model: str, label: str, out: Path, training_set: Path | None = None
) -> EvaluateReport:
    """Ask ``model`` every question of the benchmarks and write `scores.json` and `samples.parquet` into ``out``.

    ``model`` is a directory, a hub id, or with `endpoint` the name of a served model; ``label`` names it in tables.
    ``training_set`` is what it was trained on, a folder of `drift curate` or `drift ingest`: no question may be in it.
    Work goes on in ``<out>.partial``, or below `checkpoints`; a question that has its reply there is not asked again.
    Raises DataError for a table that cannot be used, too many shared questions (`max_overlap`, `max_contaminated`), too
    many truncated answers (`max_truncated`) or a partial folder of other settings, CheckpointError for a model that
    does not load, ServiceError for a server that does not answer.
    """
    from drift.evaluate.collect import by_benchmark, collect
    from drift.weights.storage.checkpoints import resolve

    started = time.monotonic()
    benchmarks, protocol = read_benchmarks(config), protocol_of(config)
    place = model if config.endpoint else str(resolve(model))
    kept = kept_replies(config, benchmarks, place, label)
    with work_folder(kept, out, leave=["part-*.jsonl"]) as folder:  # the table of samples holds the replies at the end
        found = overlaps.find_overlaps(benchmarks, training_set)
        overlaps.check_overlaps(config, benchmarks, found, folder)
        replies = by_benchmark(benchmarks, collect(config, benchmarks, place, folder))
        contents = "" if config.endpoint else content_sha256(Path(place))
        asked = f"{', '.join(config.endpoint.urls)} {model}" if config.endpoint else place
        origin = Origin(label, contents, {"model": asked, **({"training set": training_set} if training_set else {})})
        scores = score(config, benchmarks, protocol, replies, found, origin, folder)
    return EvaluateReport(scores, time.monotonic() - started)


def kept_replies(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], model: str, label: str, shard: Shard = WHOLE
) -> Path | None:
    """Where the replies are kept below `checkpoints`: two labels may be asked for at once, though the model is one."""
    if config.checkpoints is None:
        return None
    from drift.evaluate.collect import fingerprint, identity

    replies = fingerprint(config, benchmarks, identity(config, model))
    return replies_folder(config.checkpoints, "evaluations", {"replies": replies, "label": label} | shard.address())


def score(
    config: EvaluateConfig,
    benchmarks: Sequence[Benchmark],
    protocol: Protocol,
    replies: Mapping[str, Sequence[Mapping[str, Reply]]],
    found: Sequence[overlaps.Held],
    origin: Origin,
    folder: Path,
) -> Scores:
    """Judge replies and write all tables of a score folder, and where they come from."""
    samples = protocol.judge_all(config, benchmarks, replies)
    _check_truncated(samples, config)
    scores = _scores({**protocol.describe(config), **origin.asked}, benchmarks, samples, found, config, origin)
    check_published(scores, config)
    write_samples(folder, samples, [example for table in benchmarks for example in examples(table)])
    write_scores(folder, scores)
    write_table(folder, scores)
    tables: dict[str, str | Path] = {f"benchmark {table.name}": table.path for table in benchmarks}
    settings, inputs = config.model_dump(mode="json"), {**origin.inputs, **tables}
    write_provenance(folder, "evaluate", config=settings, inputs=inputs, label=scores.label, **origin.more)
    return scores


def protocol_of(config: EvaluateConfig) -> Protocol:
    """By rule, or with a judge that is known to answer."""
    if config.judge is None:
        from drift.evaluate import rule

        return rule
    from drift.evaluate import judged  # the client of a server, which the rules do not need

    judged.check(config.judge)
    return judged


def _scores(
    protocol: dict[str, Any],
    benchmarks: Sequence[Benchmark],
    samples: Sequence[Sample],
    found: Sequence[overlaps.Held],
    config: EvaluateConfig,
    origin: Origin,
) -> Scores:
    table = {
        name: replace(one, overlaps=overlaps.counts(found, name))
        for name, one in score_benchmarks(samples, config.benchmarks, config.confidence).items()
    }
    for name, one in table.items():
        if one.failed:
            logger.warning("%s: %d of %d questions could not be asked and count as wrong", name, one.failed, one.n)
    return Scores(
        label=origin.label,
        protocol=protocol,
        protocol_fingerprint=_fingerprint(protocol),
        data_fingerprint=data_fingerprint(benchmarks),
        model_sha256=origin.model_sha256,
        confidence=config.confidence,
        benchmarks=table,
        reasoning=role_mean(table, "reasoning"),
        perception=role_mean(table, "perception"),
        published=config.published,
        judge_url=config.judge.base_url if config.judge else None,
    )


def _check_truncated(samples: Sequence[Sample], config: EvaluateConfig) -> None:
    truncated = sum(sample.finish_reason == "length" for sample in samples)
    if truncated > config.max_truncated * len(samples):
        raise DataError(
            f"evaluate.max_truncated: {truncated} of {len(samples)} answers hit max_new_tokens "
            f"({config.max_new_tokens}), more than {config.max_truncated:g}; raise one of the two"
        )


def check_published(scores: Scores, config: EvaluateConfig) -> None:
    """Raise DataError for columns far from their published numbers, where `on_deviation` is `stop`."""
    found = deviations(scores)
    if found and config.on_deviation == "stop":
        raise DataError(
            f"evaluate.published: {'; '.join(found)}; find out what differs (versions, judge, pixels), or set "
            "on_deviation: warn"
        )


def data_fingerprint(benchmarks: Sequence[Benchmark]) -> str:
    """SHA-256 over the contents of all tables."""
    return _fingerprint({benchmark.name: benchmark.sha256 for benchmark in benchmarks})


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

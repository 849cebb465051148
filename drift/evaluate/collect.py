"""Every question to the model, and its replies on disk as they come: a killed evaluation goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drift.config.evaluate import EvaluateConfig
from drift.data.chains.shards import WHOLE, Shard, require_own
from drift.evaluate.benchmarks import Benchmark
from drift.evaluate.questions import Question, batches, questions
from drift.ground.artifacts import content_sha256, write_text
from drift.ground.errors import DataError, ServiceError, UnavailableError
from drift.inference.index import Key
from drift.inference.parts import Parts, Row, key_of, read_part
from drift.inference.reply import Reply, for_now
from drift.tracking.telling.progress import Progress

logger = logging.getLogger(__name__)

KEY = ("benchmark", "index", "sample")

Replies = dict[str, list[dict[str, Reply]]]
"""By the benchmark's name, for each of the samples: by the item's index."""
ByKey = dict[Key, Reply]
"""By benchmark, index and number of the sample."""
Answers = Generator[tuple[Question, Reply], None, None]


def collect(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], model: str, folder: Path, shard: Shard = WHOLE
) -> ByKey:
    """A reply to every question of the shard: of the directory ``model``, or of the server's model of that name.

    Replies are appended to ``folder``, and those that are there are not asked for again. A batch holds one benchmark,
    so short answers do not wait for long ones, and is the same whatever is there already. Raises CheckpointError,
    ConfigError, ServiceError (no such server, or more failed requests than `max_failed`), DataError (replies of
    another model or protocol in ``folder``, or of another shard).
    """
    every = _batches(config, benchmarks)
    mine = [batch for batch in every if shard.holds("/".join(batch[0].key[:2]))]
    parts = Parts(folder, same := _fingerprint(config, benchmarks, identity(config, model), every), KEY)
    own = sum(question.key in parts.done for batch in mine for question in batch)
    require_own(folder, len(parts.done) - own, shard)
    missing = [batch for batch in mine if any(question.key not in parts.done for question in batch)]
    failures = _ask(config, benchmarks, model, missing, parts, same)
    return _by_key(parts.rows()) | failures


def by_benchmark(benchmarks: Sequence[Benchmark], replies: Mapping[Key, Reply]) -> Replies:
    """Replies in the order of the questions. Raises DataError if one has none."""
    asked = {benchmark.name: questions(benchmark) for benchmark in benchmarks}
    if missing := [question.key for mine in asked.values() for question in mine if question.key not in replies]:
        name, index, _ = missing[0]
        raise DataError(f"{name} index {index}: no reply, as of {len(missing)} questions; ask the model again")
    return {
        benchmark.name: [
            {one.index: replies[one.key] for one in asked[benchmark.name] if one.sample == sample}
            for sample in range(benchmark.samples)
        ]
        for benchmark in benchmarks
    }


def write_failed(path: Path, replies: Mapping[Key, Reply]) -> int:
    """Write the requests that failed, which are not among the kept replies, as such lines to ``path``; their number."""
    failed = [dict(zip(KEY, key, strict=True)) | asdict(reply) for key, reply in replies.items() if reply.error]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failed))
    return len(failed)


def read_replies(paths: Iterable[Path]) -> ByKey:
    """The replies in parts, and the requests that failed. Raises DataError."""
    return _by_key(row for path in paths for row in read_part(path, KEY))


def identity(config: EvaluateConfig, model: str) -> str:
    """Which model that is: the contents of a directory, or a served model's name."""
    return model if config.endpoint else content_sha256(Path(model))


def fingerprint(config: EvaluateConfig, benchmarks: Sequence[Benchmark], identity: str) -> str:
    """16 hex digits of SHA-256 over everything that decides the replies, which `collect` holds kept ones against."""
    return _fingerprint(config, benchmarks, identity, _batches(config, benchmarks))


def _batches(config: EvaluateConfig, benchmarks: Iterable[Benchmark]) -> list[list[Question]]:
    size = config.batch_size if config.inference == "local" else 1
    return [batch for benchmark in benchmarks for batch in batches(questions(benchmark), size)]


def _ask(
    config: EvaluateConfig,
    benchmarks: Sequence[Benchmark],
    model: str,
    missing: list[list[Question]],
    parts: Parts,
    fingerprint: str,
) -> dict[Any, Reply]:
    """Append what is missing; the replies of requests that failed, which are not kept. Raises past `max_failed`."""
    failures: dict[Any, Reply] = {}
    if not missing:
        return failures
    total = sum(len(batch) for batch in missing)
    with (
        Progress("evaluate", total, unit="answer") as progress,
        contextlib.closing(_answers(config, model, missing, parts)) as answers,
    ):
        for question, reply in answers:
            progress.bar.set_description(question.benchmark, refresh=False)
            progress.update(tokens=reply.completion_tokens, failed=reply.error is not None)
            if reply.error is not None:
                failures[question.key] = reply
                require_few_failed(config, benchmarks, failures)
            elif question.key not in parts.done:
                parts.append(_row(question, reply, fingerprint))
    return failures


def _answers(config: EvaluateConfig, model: str, missing: list[list[Question]], parts: Parts) -> Answers:
    if config.inference != "local":
        return _served(config, model, (question for batch in missing for question in batch), parts)
    from drift.evaluate.answering import answers  # torch and transformers, which a server's client does not need

    return answers(config, Path(model), missing)


def _served(config: EvaluateConfig, model: str, asked: Iterable[Question], parts: Parts) -> Answers:
    def settings(question: Question) -> dict[str, Any]:
        return sampling(config, question.temperature, question.seed)

    pixels = config.image_max_pixels, config.image_min_pixels
    if config.endpoint is None:
        from drift.inference.served import Served  # torch, which a server's client does not need

        return Served[Question](config.vllm, model, config.dtype, "evaluate.vllm", settings, *pixels).sample(asked)
    from drift.inference.endpoint import Endpoint

    endpoint = Endpoint[Question](config.endpoint, model, "evaluate.endpoint", settings, *pixels)
    for row in parts.rows():
        endpoint.budget.add(row["prompt_tokens"] or 0, row["completion_tokens"] or 0)
    return endpoint.sample(asked)


def sampling(config: EvaluateConfig, temperature: float, seed: int) -> dict[str, Any]:
    """What goes with a request to a server: greedy at temperature 0, else drawn with the seed."""
    limits = {"temperature": temperature, "max_tokens": config.max_new_tokens}
    return limits | ({"seed": seed} if temperature else {})


def _fingerprint(
    config: EvaluateConfig, benchmarks: Sequence[Benchmark], identity: str, every: list[list[Question]]
) -> str:
    """16 hex digits of SHA-256 over everything that decides a reply: model, questions, batches and limits."""
    limits = {"max_new_tokens", "image_max_pixels", "image_min_pixels"}
    settings: dict[str, Any] = config.model_dump(mode="json", include=limits)
    settings |= {"data": [benchmark.sha256 for benchmark in benchmarks]}
    settings |= {"batches": [[_asked(question) for question in batch] for batch in every]}
    if config.endpoint:
        settings |= {"server": config.endpoint.base_url, "neutral": config.endpoint.neutral, "model": identity}
        settings |= config.endpoint.deciding()
    else:
        settings |= {"dtype": config.dtype, "model": identity}
    if config.inference == "vllm":
        settings |= {"vllm": config.vllm.deciding()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _asked(question: Question) -> list[Any]:
    drawn = [question.temperature, question.seed] if question.temperature else []
    return [*question.key, question.text, *drawn]


def require_few_failed(config: EvaluateConfig, benchmarks: Sequence[Benchmark], failures: Mapping[Any, Reply]) -> None:
    """Raise past `max_failed`. Rows that could not be asked count too, as they do in the scores."""
    failed = Counter(name for name, *_ in failures)
    for benchmark in benchmarks:
        count = failed[benchmark.name]
        asked = benchmark.samples * len(benchmark.items)
        if count and count + benchmark.samples * len(benchmark.failed) > config.max_failed * asked:
            first = next(reply.error for (name, *_), reply in failures.items() if name == benchmark.name)
            raise (UnavailableError if for_now(str(first)) else ServiceError)(
                f"evaluate.max_failed: {benchmark.name}: {count} requests failed ({first}), more than the share "
                f"{config.max_failed:g} of {asked}; the other replies are kept, run again to go on"
            )


def _row(question: Question, reply: Reply, fingerprint: str) -> Row:
    return dict(zip(KEY, question.key, strict=True)) | asdict(reply) | {"fingerprint": fingerprint}


def _by_key(rows: Iterable[Row]) -> ByKey:
    return {key_of(row, KEY): _reply(row) for row in rows}


def _reply(row: Row) -> Reply:
    return Reply(**{name: value for name, value in row.items() if name not in (*KEY, "fingerprint")})

"""The teacher over all problems, several samples each; a run that was killed goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from drift.config.data import GenerateConfig, LocalTeacher
from drift.data import tables
from drift.data.chains.generations import KEY, SUMMARY_FILE
from drift.data.chains.prompts import user_text
from drift.data.chains.requests import Request, sample_seed
from drift.data.chains.shards import WHOLE, Shard, require_own
from drift.data.chains.teacher import open_teacher
from drift.ground.artifacts import content_sha256, write_json, write_provenance
from drift.ground.claim import replies_folder, work_folder
from drift.ground.errors import DataError, ServiceError, UnavailableError
from drift.inference.parts import Key, Parts, Row, sort_parts
from drift.inference.reply import Reply, for_now
from drift.tracking.telling.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerateReport:
    """Samples asked for, drawn now or earlier, failed and truncated; tokens of all of them; seconds of this run."""

    requested: int
    generated: int
    resumed: int
    failed: int
    truncated: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Numbers for the tracker."""
        names = ("requested", "generated", "resumed", "failed", "truncated", "prompt_tokens", "completion_tokens")
        counts = {f"data/generate/{name}": float(getattr(self, name)) for name in names}
        return counts | {"data/generate_seconds": self.seconds}


def generate(config: GenerateConfig, problems: Path, out: Path, shard: Shard = WHOLE) -> GenerateReport:
    """Draw ``config.samples`` chains for each problem of the ``shard`` into the new folder ``out``.

    Work goes on in ``<out>.partial``, or below `checkpoints`; a key ``(id, sample)`` that is there is not drawn again.
    Raises DataError (no problems, or a partial folder of other settings), ServiceError (more failed than
    ``max_failed``, or the server does not answer), CheckpointError, ConfigError.
    """
    started = time.monotonic()
    table = problems / tables.PROBLEMS_FILE
    keys = _keys(table, config, shard)
    fingerprint = _fingerprint(config, table)
    kept = replies_folder(config.checkpoints, "generations", {"fingerprint": fingerprint} | shard.address())
    with work_folder(kept, out) as folder:
        parts = Parts(folder, fingerprint, KEY)
        require_own(folder, parts.done, keys, shard)
        resumed = len(parts.done)
        errors = _draw(config, table, keys, parts, fingerprint)
        sort_parts(folder, KEY, keys.__getitem__)
        summary = _summary(list(parts.rows()), len(keys), errors) | {
            "fingerprint": fingerprint,
            "model": config.teacher.model,
            **shard.address(),
        }
        write_json(folder / SUMMARY_FILE, summary)
        seconds = round(time.monotonic() - started, 3)
        inputs: dict[str, str | Path] = {"problems": problems, "teacher": config.teacher.model}
        write_provenance(
            folder, "generate", config=config.model_dump(mode="json"), inputs=inputs, seconds=seconds, resumed=resumed
        )
    counts = {name: summary[name] for name in summary if name not in {"fingerprint", "model", "shard", "errors"}}
    report = GenerateReport(**counts, resumed=resumed, seconds=seconds)
    logger.info("%s: %d of %d samples, %d truncated", out, report.generated, report.requested, report.truncated)
    return report


def _keys(table: Path, config: GenerateConfig, shard: Shard) -> dict[Key, int]:
    """Every ``(id, sample)`` of the shard with its place: the problems in their order, each with all its samples."""
    ids = [row["id"] for row in tables.read_rows(table, ["id"])]
    if not ids:
        raise DataError(f"{table}: no problems; run `drift ingest` on a source that has some")
    every = [(id, sample) for id in ids for sample in range(config.samples)]
    size = config.teacher.batch_size if isinstance(config.teacher, LocalTeacher) else 1
    batches = (every[start : start + size] for start in range(0, len(every), size))
    mine = (key for batch in batches if shard.holds(batch[0][0]) for key in batch)
    return {key: place for place, key in enumerate(mine)}


def _fingerprint(config: GenerateConfig, table: Path) -> str:
    """16 hex digits of SHA-256 over everything that decides what is drawn, and nothing else."""
    apart = {"teacher", "max_failed", "checkpoints", "shards"}
    settings: dict[str, Any] = config.model_dump(mode="json", exclude=apart)
    settings |= {"model": config.teacher.model, "problems": content_sha256(table)}
    if isinstance(config.teacher, LocalTeacher):
        settings |= {"batch_size": config.teacher.batch_size, "dtype": config.teacher.dtype}
        path = Path(config.teacher.model)
        settings["weights"] = content_sha256(path) if path.exists() else None
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _draw(config: GenerateConfig, table: Path, keys: dict[Key, int], parts: Parts, fingerprint: str) -> Counter[str]:
    """Append what is missing; the errors of what failed. Raises ServiceError once too much has failed."""
    errors: Counter[str] = Counter()
    if len(parts.done) == len(keys):
        return errors
    teacher = open_teacher(config)
    requests = _requests(config, table, keys.keys() - parts.done, teacher.batch_size)
    progress = Progress("generate", len(keys), done=len(parts.done), unit="sample")
    with progress, contextlib.closing(teacher.sample(requests)) as replies:
        for request, reply in replies:
            if (request.id, request.sample) in parts.done:
                continue
            if reply.error is None:
                parts.append(_row(request, reply, config.teacher.model, fingerprint))
                progress.update(tokens=reply.completion_tokens)
            else:
                progress.update(failed=True)
                errors[reply.error] += 1
                _require_few_failed(config, errors, len(keys))
    return errors


def _requests(config: GenerateConfig, table: Path, missing: set[Key], batch_size: int) -> Iterator[Request]:
    """Requests in batches of the same composition whatever is done: one with anything missing comes whole."""
    every = (
        Request(
            id=problem["id"],
            sample=sample,
            text=user_text(config.prompt, problem),
            images=[image["bytes"] for image in problem["images"]],
            seed=sample_seed(config.seed, problem["id"], sample),
        )
        for problem in tables.read_rows(table, ["id", "problem", "choices", "images"])
        for sample in range(config.samples)
    )
    while batch := list(islice(every, batch_size)):
        if any((request.id, request.sample) in missing for request in batch):
            yield from batch


def _row(request: Request, reply: Reply, model: str, fingerprint: str) -> Row:
    return {
        "id": request.id,
        "sample": request.sample,
        "text": reply.text,
        "reasoning": reply.reasoning,
        "finish_reason": reply.finish_reason,
        "usage": {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens},
        "seed": request.seed,
        "model": model,
        "fingerprint": fingerprint,
        "error": None,
    }


def _require_few_failed(config: GenerateConfig, errors: Counter[str], total: int) -> None:
    failed = errors.total()
    if failed == 1:
        logger.warning("a request failed: %s", next(iter(errors)))
    if failed > config.max_failed * total:
        most = errors.most_common(1)[0][0]
        raise (UnavailableError if for_now(most) else ServiceError)(
            f"generate.max_failed: {failed} requests failed ({most}), more than the share "
            f"{config.max_failed:g} of {total}; what was drawn is kept, run again to go on"
        )


def _summary(rows: list[Row], requested: int, errors: Counter[str]) -> dict[str, Any]:
    return {
        "requested": requested,
        "generated": len(rows),
        "failed": errors.total(),
        "errors": dict(sorted(errors.items())),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "prompt_tokens": sum(row["usage"]["prompt_tokens"] or 0 for row in rows),
        "completion_tokens": sum(row["usage"]["completion_tokens"] or 0 for row in rows),
    }

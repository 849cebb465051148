"""The teacher over all problems, several samples each; a run that was killed goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, compress
from pathlib import Path
from typing import Any

from drift.config.data import EndpointTeacher, GenerateConfig, LocalTeacher, ReadyTeacher, VllmTeacher
from drift.data import tables
from drift.data.chains.adaptive import everything, rounds, unsolved
from drift.data.chains.generations import KEY, SUMMARY_FILE
from drift.data.chains.prompts import user_text
from drift.data.chains.ready import write_ready
from drift.data.chains.requests import Answered, Request, sample_seed
from drift.data.chains.shards import WHOLE, Shard, require_own
from drift.data.chains.teacher import open_teacher
from drift.ground.artifacts import (
    content_sha256,
    own_name,
    read_json,
    read_provenance,
    staged,
    write_json,
    write_provenance,
)
from drift.ground.claim import replies_folder, work_folder
from drift.ground.errors import ConfigError, DataError, ServiceError, UnavailableError
from drift.inference.index import Key
from drift.inference.parts import Parts, Row, part_files, sort_parts
from drift.inference.reply import Reply, for_now
from drift.tracking.telling.progress import Progress

logger = logging.getLogger(__name__)

COUNTS = ("requested", "generated", "failed", "truncated", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class GenerateReport:
    """Samples asked for, drawn now or earlier, failed and truncated; tokens of all of them; seconds of this run.

    ``cost`` is that of the tokens; None where the teacher has no price.
    """

    requested: int
    generated: int
    resumed: int
    failed: int
    truncated: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float | None = None

    def metrics(self) -> dict[str, float]:
        """Numbers for the tracker."""
        counts = {f"data/generate/{name}": float(getattr(self, name)) for name in (*COUNTS, "resumed")}
        cost = {} if self.cost is None else {"data/generate/cost": self.cost}
        return counts | cost | {"data/generate_seconds": self.seconds}


@dataclass
class Drawing:
    """How far the drawing is: keys asked for so far, and of those that failed now which and why."""

    requested: int = 0
    failed: list[Key] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def generate(config: GenerateConfig, problems: Path, out: Path, shard: Shard = WHOLE) -> GenerateReport:
    """Draw ``config.samples`` chains for each problem of the ``shard`` into the folder ``out``.

    Work goes on in ``<out>.partial``, or below `checkpoints`; a key ``(id, sample)`` that is there is not drawn again.
    An ``out`` of the same settings in which requests had failed is asked for those again, and replaced at the end.
    Raises DataError (no problems, or a folder of other settings), ServiceError (more failed than ``max_failed``, or the
    server does not answer), CheckpointError, ConfigError (``max_price`` too).
    """
    started = time.monotonic()
    if isinstance(config.teacher, ReadyTeacher):
        if shard != WHOLE:
            raise ConfigError(f"shard {shard}: chains that came with the problems are not drawn; leave --shard out")
        return _from_problems(config, problems, out)
    table = problems / tables.PROBLEMS_FILE
    if not tables.count_rows(table):
        raise DataError(f"{table}: no problems; run `drift ingest` on a source that has some")
    fingerprint = _fingerprint(config, table)
    kept = replies_folder(config.checkpoints, "generations", {"fingerprint": fingerprint} | shard.address())
    again = _has_gaps(out, fingerprint)
    with work_folder(kept, out, replace=again) as folder:
        if again:
            _take_over(out, folder)
        parts = Parts(folder, fingerprint, KEY)
        resumed = len(parts.done)
        require_own(folder, resumed - sum(key in parts.done for key in _all_keys(config, table, shard)), shard)
        drawing = _draw(config, table, parts, fingerprint, shard)
        sort_parts(folder, KEY, _all_keys(config, table, shard))
        summary = _summary(config, parts.rows(), drawing)
        summary |= {"fingerprint": fingerprint, "model": config.teacher.model, **shard.address()}
        write_json(folder / SUMMARY_FILE, summary)
        seconds = round(time.monotonic() - started, 3)
        inputs: dict[str, str | Path] = {"problems": problems, "teacher": config.teacher.model}
        write_provenance(
            folder, "generate", config=config.model_dump(mode="json"), inputs=inputs, seconds=seconds, resumed=resumed
        )
    counts = {name: summary[name] for name in COUNTS}
    report = GenerateReport(**counts, resumed=resumed, seconds=seconds, cost=summary.get("cost"))
    logger.info("%s: %d of %d samples, %d truncated", out, report.generated, report.requested, report.truncated)
    return report


def _from_problems(config: GenerateConfig, problems: Path, out: Path) -> GenerateReport:
    """The chains that came with the problems, as a teacher's."""
    started = time.monotonic()
    model = f"ready: {read_provenance(problems)['config']['source']}"
    with staged(out) as folder:
        written = write_ready(problems, model, folder)
        counts = dict.fromkeys(("failed", "truncated", "prompt_tokens", "completion_tokens"), 0)
        counts |= {"requested": written, "generated": written}
        write_json(folder / SUMMARY_FILE, counts | {"errors": {}, "model": model})
        write_provenance(folder, "generate", config=config.model_dump(mode="json"), inputs={"problems": problems})
    return GenerateReport(**counts, resumed=0, seconds=round(time.monotonic() - started, 3))


def _has_gaps(out: Path, fingerprint: str) -> bool:
    """Whether ``out`` is complete work of these settings, but for requests that failed."""
    if not (out / SUMMARY_FILE).is_file():
        return False
    summary = read_json(out / SUMMARY_FILE)
    return bool(summary.get("fingerprint") == fingerprint and summary.get("failed"))


def _take_over(out: Path, folder: Path) -> None:
    """Copy the parts of ``out`` that are not in ``folder``: a run that was killed here goes on with the rest."""
    for path in part_files(out):
        if not (folder / path.name).exists():
            shutil.copyfile(path, aside := own_name(folder / path.name))
            aside.rename(folder / path.name)


def _all_keys(config: GenerateConfig, table: Path, shard: Shard) -> Iterator[Key]:
    """Every ``(id, sample)`` of the shard: the problems in their order, each with all its samples."""
    return _keys(config, table, everything(table), range(config.samples), shard)


def _keys(config: GenerateConfig, table: Path, chosen: bytearray, samples: range, shard: Shard) -> Iterator[Key]:
    """Those of the chosen problems with ``samples``."""
    every = ((row["id"], sample) for row in compress(tables.read_rows(table, ["id"]), chosen) for sample in samples)
    return chain.from_iterable(shard.batches(every, _together(config), lambda key: key[0]))


def _together(config: GenerateConfig) -> int:
    """Requests that are drawn together."""
    return config.teacher.batch_size if isinstance(config.teacher, LocalTeacher) else 1


def _fingerprint(config: GenerateConfig, table: Path) -> str:
    """16 hex digits of SHA-256 over everything that decides what is drawn, and nothing else."""
    settings: dict[str, Any] = config.model_dump(
        mode="json", exclude={"teacher", "max_failed", "checkpoints", "shards"}
    )
    if not config.adaptive:
        del settings["adaptive"]  # work done before there was that key stays valid
    settings |= {"model": config.teacher.model, "problems": content_sha256(table)}
    if isinstance(config.teacher, LocalTeacher):
        settings |= {"batch_size": config.teacher.batch_size}
    if isinstance(config.teacher, VllmTeacher):
        settings |= {"vllm": config.teacher.deciding()}
    if isinstance(config.teacher, LocalTeacher | VllmTeacher):
        settings |= {"dtype": config.teacher.dtype}
        path = Path(config.teacher.model)
        settings["weights"] = content_sha256(path) if path.exists() else None
    if isinstance(config.teacher, EndpointTeacher):
        settings |= config.teacher.deciding()
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _draw(config: GenerateConfig, table: Path, parts: Parts, fingerprint: str, shard: Shard) -> Drawing:
    """Append what is missing, round by round. Raises ServiceError once too much has failed."""
    drawing, teacher = Drawing(), None
    for samples in rounds(config):
        chosen = unsolved(table, parts, samples[0] - 1) if samples[0] else everything(table)
        there = Counter(key in parts.done for key in _keys(config, table, chosen, samples, shard))
        drawing.requested += there.total()
        if there[False]:
            teacher = teacher or open_teacher(config, _used(config, parts))
            requests = _missing(config, _requests(config, table, chosen, samples), parts, shard)
            done = drawing.requested - there[False]
            progress = Progress("generate", drawing.requested, done=done, unit="sample")
            with progress, contextlib.closing(teacher.sample(requests)) as replies:
                _keep(config, replies, parts, drawing, progress, fingerprint)
    return drawing


def _keep(
    config: GenerateConfig,
    replies: Iterable[Answered],
    parts: Parts,
    drawing: Drawing,
    progress: Progress,
    fingerprint: str,
) -> None:
    for request, reply in replies:
        if (request.id, request.sample) in parts.done:
            continue
        if reply.error is None:
            parts.append(_row(request, reply, config.teacher.model, fingerprint))
            progress.update(tokens=reply.completion_tokens)
        else:
            progress.update(failed=True)
            drawing.failed.append((request.id, request.sample))
            drawing.errors[reply.error] += 1
            _require_few_failed(config, drawing)


def _used(config: GenerateConfig, parts: Parts) -> tuple[int, int]:
    """Prompt and completion tokens of what is there, where it may not cost more than so much."""
    if not isinstance(config.teacher, EndpointTeacher) or config.teacher.max_price is None:
        return 0, 0
    totals = _totals(parts.rows())
    return totals["prompt_tokens"], totals["completion_tokens"]


def _requests(config: GenerateConfig, table: Path, chosen: bytearray, samples: range) -> Iterator[Request]:
    """Of each chosen problem, in their order, the ``samples``; images are read as they are needed."""
    problems = tables.read_rows(table, ["id", "problem", "choices", "images"])
    return (
        Request(
            id=problem["id"],
            sample=sample,
            text=user_text(config.prompt, problem),
            images=[image["bytes"] for image in problem["images"]],
            seed=sample_seed(config.seed, problem["id"], sample),
        )
        for problem in compress(problems, chosen)
        for sample in samples
    )


def _missing(config: GenerateConfig, requests: Iterator[Request], parts: Parts, shard: Shard) -> Iterator[Request]:
    """In batches of the same composition whatever is there: one with anything missing comes whole."""
    for batch in shard.batches(requests, _together(config), lambda request: request.id):
        if any((request.id, request.sample) not in parts.done for request in batch):
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


def _require_few_failed(config: GenerateConfig, drawing: Drawing) -> None:
    failed, total = len(drawing.failed), drawing.requested
    if failed == 1:
        logger.warning("a request failed: %s", next(iter(drawing.errors)))
    if failed > config.max_failed * total:
        most = drawing.errors.most_common(1)[0][0]
        raise (UnavailableError if for_now(most) else ServiceError)(
            f"generate.max_failed: {failed} requests failed ({most}), more than the share "
            f"{config.max_failed:g} of {total}; what was drawn is kept, run again to go on"
        )


def _summary(config: GenerateConfig, rows: Iterable[Row], drawing: Drawing) -> dict[str, Any]:
    totals = _totals(rows)
    prices = config.teacher.price_per_million if isinstance(config.teacher, EndpointTeacher) else None
    cost = {"cost": prices.of(totals["prompt_tokens"], totals["completion_tokens"])} if prices else {}
    return {
        "requested": drawing.requested,
        "generated": totals["generated"],
        "failed": len(drawing.failed),
        "errors": dict(sorted(drawing.errors.items())),
        "failed_keys": sorted(drawing.failed),
        "truncated": totals["truncated"],
        "prompt_tokens": totals["prompt_tokens"],
        "completion_tokens": totals["completion_tokens"],
        **cost,
    }


def _totals(rows: Iterable[Row]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for row in rows:
        totals["generated"] += 1
        totals["truncated"] += row["finish_reason"] == "length"
        for name in ("prompt_tokens", "completion_tokens"):
            totals[name] += row["usage"][name] or 0
    return totals

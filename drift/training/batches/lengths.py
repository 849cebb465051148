"""How many tokens each row has: counted once, by all ranks and processors together, and kept for the next start.

The counts lie in the cache of `datasets` (HF_DATASETS_CACHE), under everything that they follow from: the rows, the
processor with its tokens and template, the limit of the images, and the code.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list, gather_object

from drift.data.rows import require_sound
from drift.ground.artifacts import content_sha256
from drift.ground.errors import DataError
from drift.ground.fingerprint import code_fingerprint
from drift.ground.progress import shown

logger = logging.getLogger(__name__)

Measure = Callable[[int], int]
"""The tokens of the row at a place. Raises DataError, `row ID: fault`, for a row that cannot be used."""
Counted = int | str
"""Tokens, or what is wrong with the row."""

WORTH_SECONDS = 5.0
"""Counts that were had sooner are not kept."""
ROWS_PER_PROCESS = 256
"""Fewer are not worth the start of a process."""
CHUNK = 16


def counts_key(training_set: Path, processor: Any, max_pixels: int | None, pictures: Iterable[Path] = ()) -> str:
    """SHA-256 of everything that decides how many tokens the rows of ``training_set`` have.

    ``pictures`` are files that rows name; of those a size and a time are looked at, not the contents.
    """
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = (
        content_sha256(training_set),
        code_fingerprint("drift.training.batches.collate"),
        processor.to_json_string(),
        backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items())),
        str(processor.chat_template),
        str(max_pixels),
        *(f"{path} {status.st_size} {status.st_mtime_ns}" for path in pictures for status in [path.stat()]),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def token_counts(rows: int, measure: Measure, key: str) -> list[int]:
    """The tokens of each of ``rows`` rows, the same list on every rank; as kept under ``key``, or counted.

    Each rank counts its share. What cannot be kept is said in a warning and counted again at the next start.
    Raises DataError, on every rank, if rows cannot be used: the first is told whole, and the others are named.
    """
    world, rank = _place()
    known: list[list[int] | None] = [_kept(key, rows) if rank == 0 else None]
    if world > 1:
        broadcast_object_list(known)
    if known[0] is not None:
        return known[0]
    started = time.monotonic()
    own = _counted(range(rank, rows, world), measure)
    counts = _sound(_interleaved(gather_object([own]), rows) if world > 1 else own)
    if rank == 0 and time.monotonic() - started > WORTH_SECONDS:
        _keep(key, counts)
    return counts


def _place() -> tuple[int, int]:
    """How many ranks count, and which this is."""
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


def _sound(counted: Sequence[Counted]) -> list[int]:
    faults = [fault.removeprefix("row ").partition(": ") for fault in counted if isinstance(fault, str)]
    require_sound([(name, fault) for name, _, fault in faults])
    return [count for count in counted if isinstance(count, int)]


def _interleaved(parts: Sequence[Sequence[Counted]], rows: int) -> list[Counted]:
    """Rank r of N has counted rows r, r + N, …"""
    counts: list[Counted] = [0] * rows
    for rank, part in enumerate(parts):
        counts[rank :: len(parts)] = part
    return counts


def _counted(places: Sequence[int], measure: Measure) -> list[Counted]:
    processes = min(_processors(), len(places) // ROWS_PER_PROCESS)
    if processes < 2:
        return [_tried(measure, place) for place in shown(places, "lengths", len(places), unit="row")]
    forked = get_context("fork")  # the rows are not copied
    with ProcessPoolExecutor(processes, forked, initializer=_begin, initargs=(measure,)) as pool:
        counted = pool.map(_measured, places, chunksize=CHUNK)
        return list(shown(counted, "lengths", len(places), unit="row"))


def _processors() -> int:
    """Those of this rank."""
    return len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


_measure: Measure


def _begin(measure: Measure) -> None:
    """In a forked process: torch's threads were not forked with it."""
    global _measure
    _measure = measure
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _measured(place: int) -> Counted:
    return _tried(_measure, place)


def _tried(measure: Measure, place: int) -> Counted:
    try:
        return measure(place)
    except DataError as fault:
        return str(fault)


def _file(key: str) -> Path:
    import datasets  # takes a second

    return Path(datasets.config.HF_DATASETS_CACHE) / "drift" / f"lengths-{key}.parquet"


def _kept(key: str, rows: int) -> list[int] | None:
    """What an earlier start has counted; None if there is nothing, or nothing that can be read."""
    with contextlib.suppress(OSError, pa.ArrowException):
        counts: list[int] = pq.read_table(_file(key))["tokens"].to_pylist()
        return counts if len(counts) == rows else None
    return None


def _keep(key: str, counts: Sequence[int]) -> None:
    file = _file(key)
    written = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"tokens": counts}), written)
        written.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            written.unlink()
        logger.warning("%s: the rows' lengths cannot be kept (%s); the next start counts again", file.parent, error)

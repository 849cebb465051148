"""Answers of a local checkpoint to questions about images, greedy or drawn, in this process or in one per GPU."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from drift.config.evaluate import EvaluateConfig
from drift.evaluate.questions import Question
from drift.ground.errors import DriftError, PipelineError, cause
from drift.inference.draws import Draws
from drift.inference.local import LocalModel
from drift.inference.reply import Reply
from drift.training.launch import processes_of

Answered = tuple[Question, Reply]


def answers(config: EvaluateConfig, model: Path, batches: Sequence[list[Question]]) -> Generator[Answered, None, None]:
    """A reply per question, batch by batch, in any order. Raises CheckpointError, PipelineError (a process ended)."""
    processes = min(processes_of(config.processes), len(batches))
    if processes > 1:
        yield from _spread(config, model, batches, processes)
        return
    opened = open_model(model, config)
    for batch in batches:
        yield from zip(batch, replies(opened, batch), strict=True)


def replies(model: LocalModel, batch: Sequence[Question]) -> list[Reply]:
    """Of a batch of one benchmark, whose temperature is one."""
    temperature = batch[0].temperature
    draws = Draws(temperature, [question.seed for question in batch]) if temperature else None
    return model.replies(batch, draws=draws)


def open_model(model: Path, config: EvaluateConfig) -> LocalModel:
    """Raises CheckpointError if the model or its processor does not load."""
    return LocalModel(
        model,
        {"do_sample": False, "max_new_tokens": config.max_new_tokens},
        dtype=config.dtype,
        image_max_pixels=config.image_max_pixels,
        image_min_pixels=config.image_min_pixels,
        threads=config.threads,
    )


def _spread(
    config: EvaluateConfig, model: Path, batches: Sequence[list[Question]], processes: int
) -> Generator[Answered, None, None]:
    """Whole batches over processes, so that a reply does not depend on how many there are."""
    context = multiprocessing.get_context("spawn")
    ranks = context.SimpleQueue()
    for rank in range(processes):
        ranks.put(rank)
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(ranks,))
    try:
        waiting = {pool.submit(_replies, model, config.model_dump_json(), batch): batch for batch in batches}
        for future in as_completed(waiting):
            yield from zip(waiting[future], future.result(), strict=True)
    except DriftError:
        raise
    except Exception as error:  # whatever ended a process: memory, a driver, a signal
        raise PipelineError(
            f"evaluate.processes: one of {processes} ended ({cause(error)}); run again to go on, "
            "with a smaller batch_size if memory was short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(ranks: Any) -> None:
    """A process takes its GPU, and ends when the one that started it is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    rank = ranks.get()
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _replies(model: Path, config: str, batch: list[Question]) -> list[Reply]:
    return replies(_loaded(model, config), batch)


@functools.cache
def _loaded(model: Path, config: str) -> LocalModel:
    return open_model(model, EvaluateConfig.model_validate_json(config))

"""Greedy answers of a local checkpoint to questions about images, in this process or in one per GPU."""

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
from transformers import GenerationConfig

from drift.config import EvaluateConfig
from drift.errors import DriftError, PipelineError
from drift.evaluate.questions import Question
from drift.launch import processes_of
from drift.modeling import (
    conversation,
    decode_image,
    end_tokens,
    limit_pixels,
    load_processor,
    load_vlm,
    pad_token,
)
from drift.reply import Reply

Answered = tuple[Question, Reply]


def answers(config: EvaluateConfig, model: Path, batches: Sequence[list[Question]]) -> Generator[Answered, None, None]:
    """A reply per question, batch by batch, in any order. Raises CheckpointError, PipelineError (a process ended)."""
    processes = min(processes_of(config.processes), len(batches))
    if processes > 1:
        yield from _spread(config, model, batches, processes)
        return
    greedy = GreedyModel(model, config)
    for batch in batches:
        yield from zip(batch, greedy.replies(batch), strict=True)


class GreedyModel:
    """A checkpoint with its processor that answers greedily, on the GPU if there is one."""

    def __init__(self, path: Path, config: EvaluateConfig) -> None:
        """Raises CheckpointError if the model or its processor does not load."""
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config = config
        self.processor = load_processor(path)
        self.processor.tokenizer.padding_side = "left"
        self.model = load_vlm(path, dtype=config.dtype).to("cuda" if torch.cuda.is_available() else "cpu")
        self.ends = end_tokens(self.model, self.processor)
        # a fresh one: penalties and temperatures a checkpoint ships with are no part of the protocol
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=pad_token(self.processor, self.ends),
        )

    @torch.inference_mode()
    def replies(self, batch: Sequence[Question]) -> list[Reply]:
        """One reply per question of the batch, in its order."""
        inputs = self._inputs(batch).to(self.model.device, dtype=self.model.dtype)
        output = self.model.generate(**inputs)
        return self._decoded(output[:, inputs["input_ids"].shape[1] :].tolist())

    def _inputs(self, batch: Sequence[Question]) -> Any:
        turns = [conversation(question.text, images=1) for question in batch]
        limit = self.config.image_max_pixels
        return self.processor(
            text=self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
            images=[[limit_pixels(decode_image(question.image, "image"), limit)] for question in batch],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _decoded(self, rows: list[list[int]]) -> list[Reply]:
        stopped = [any(token in self.ends for token in row) for row in rows]
        texts = self.processor.tokenizer.batch_decode([self._cut(row) for row in rows], skip_special_tokens=True)
        return [Reply(text.strip(), "stop" if stop else "length") for text, stop in zip(texts, stopped, strict=True)]

    def _cut(self, row: list[int]) -> list[int]:
        """The tokens before the first end token."""
        return row[: next((place for place, token in enumerate(row) if token in self.ends), len(row))]


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
        first = (str(error).splitlines() or [""])[0]
        raise PipelineError(
            f"evaluate.processes: one of {processes} ended ({type(error).__name__}: {first}); run again to go on, "
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
    return _loaded(model, config).replies(batch)


@functools.cache
def _loaded(model: Path, config: str) -> GreedyModel:
    return GreedyModel(model, EvaluateConfig.model_validate_json(config))

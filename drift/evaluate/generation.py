"""Greedy answers of a local checkpoint to questions about images, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm
from transformers import GenerationConfig

from drift.config import EvaluateConfig
from drift.modeling import (
    conversation,
    decode_image,
    end_tokens,
    limit_pixels,
    load_processor,
    load_vlm,
    pad_token,
)

PIXELS_PER_CHARACTER = 200  # a visual token covers 28 x 28 px, a text token about four characters


@dataclass(frozen=True)
class Question:
    """What the model is shown: the user's text and one encoded image of ``size`` (width, height)."""

    text: str
    image: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Reply:
    """What the model wrote, and whether it came to an end by itself."""

    text: str
    finish_reason: Literal["stop", "length"]


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

    def replies(self, questions: Sequence[Question], name: str) -> list[Reply]:
        """One reply per question, in the questions' order. ``name`` stands beside the progress bar."""
        replies: dict[int, Reply] = {}
        with tqdm(total=len(questions), desc=name, unit="answer", leave=False) as progress:
            for batch in _batches(questions, self.config.batch_size):
                replies |= zip(batch, self._generate([questions[place] for place in batch]), strict=True)
                progress.update(len(batch))
        return [replies[place] for place in range(len(questions))]

    @torch.inference_mode()
    def _generate(self, questions: list[Question]) -> Iterable[Reply]:
        inputs = self._inputs(questions).to(self.model.device, dtype=self.model.dtype)
        output = self.model.generate(**inputs)
        return self._decoded(output[:, inputs["input_ids"].shape[1] :].tolist())

    def _inputs(self, questions: list[Question]) -> Any:
        turns = [conversation(question.text, images=1) for question in questions]
        limit = self.config.image_max_pixels
        return self.processor(
            text=self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
            images=[[limit_pixels(decode_image(question.image, "image"), limit)] for question in questions],
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


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, the longest first: what does not fit into memory shows at once."""
    order = sorted(range(len(questions)), key=lambda place: (-_length(questions[place]), place))
    return (order[start : start + size] for start in range(0, len(order), size))


def _length(question: Question) -> int:
    return question.size[0] * question.size[1] + PIXELS_PER_CHARACTER * len(question.text)

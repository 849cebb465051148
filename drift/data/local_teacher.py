"""A checkpoint on this machine as teacher: batched sampling with transformers."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig

from drift.checkpoints import resolve
from drift.config import GenerateConfig, LocalTeacher
from drift.data.teacher import Answered, Request, sample_seed
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


class LocalModel:
    """Samples batch by batch, on the GPU if there is one; a batch's draw depends on its requests alone."""

    def __init__(self, config: GenerateConfig, teacher: LocalTeacher) -> None:
        """Raises CheckpointError if the model or its processor does not load."""
        path = resolve(teacher.model)
        if teacher.threads is not None:
            torch.set_num_threads(teacher.threads)
        self.config = config
        self.batch_size = teacher.batch_size
        self.processor = load_processor(path, trust_remote_code=teacher.trust_remote_code)
        model = load_vlm(path, dtype=teacher.dtype, trust_remote_code=teacher.trust_remote_code)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.ends = end_tokens(self.model, self.processor)
        # a fresh one: top_k or penalties that a checkpoint ships with are not in our configuration
        self.model.generation_config = GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=pad_token(self.processor, self.ends),
            **_sampling(config),
        )

    def sample(self, requests: Iterable[Request]) -> Generator[Answered, None, None]:
        """Replies in the order of the requests."""
        remaining = iter(requests)
        while batch := list(islice(remaining, self.batch_size)):
            yield from zip(batch, self._replies(batch), strict=True)

    @torch.inference_mode()
    def _replies(self, batch: list[Request]) -> list[Reply]:
        inputs = self._inputs(batch).to(self.model.device)
        keys = [f"{request.id}/{request.sample}" for request in batch]
        with torch.random.fork_rng():
            torch.manual_seed(sample_seed(self.config.seed, *keys))
            output = self.model.generate(**inputs)
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._reply(row, count) for row, count in zip(rows, prompt_tokens, strict=True)]

    def _inputs(self, batch: list[Request]) -> Any:
        turns = [conversation(request.text, images=len(request.images)) for request in batch]
        limit = self.config.image_max_pixels
        images = [
            [limit_pixels(decode_image(image, request.id), limit) for image in request.images] for request in batch
        ]
        return self.processor(
            text=self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
            images=images,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _reply(self, row: list[int], prompt_tokens: int) -> Reply:
        length = next((place for place, token in enumerate(row) if token in self.ends), None)
        text = self.processor.tokenizer.decode(row[:length], skip_special_tokens=True).strip()
        drawn = len(row) if length is None else length + 1
        finish_reason = "length" if length is None else "stop"
        return Reply(text, finish_reason, prompt_tokens=prompt_tokens, completion_tokens=drawn)


def _sampling(config: GenerateConfig) -> dict[str, Any]:
    if config.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}

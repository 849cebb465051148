"""A multimodal checkpoint on this machine that is asked batch by batch, with transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from drift.ground.errors import CheckpointError
from drift.inference.images import decode_image, limit_pixels
from drift.inference.reply import Reply
from drift.inference.turns import Question, images_of, messages
from drift.weights.modeling import load_processor, load_vlm


class Soundness(LogitsProcessor):
    """Whether a row of logits was NaN or infinite, noted on the device while a generation goes on.

    Such a row becomes zeros, so that a draw from it does not end the process first; all others stay as they are.
    """

    def __init__(self) -> None:
        self._broken: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        """A row's largest logit is NaN if one of them is; single ones of -inf are no fault."""
        broken = ~scores.amax(dim=1).isfinite()
        self._broken = broken if self._broken is None else self._broken | broken
        return scores.masked_fill(broken.unsqueeze(1), 0.0)

    @property
    def broken(self) -> bool:
        """Waits for the device."""
        return self._broken is not None and bool(self._broken.any())


class LocalModel:
    """A model with its processor, on the GPU if there is one. A batch's replies depend on the batch alone."""

    def __init__(
        self,
        path: Path,
        sampling: Mapping[str, Any],
        *,
        dtype: str = "auto",
        image_max_pixels: int | None = None,
        image_min_pixels: int | None = None,
        threads: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """``sampling``: arguments of GenerationConfig. Nothing that the checkpoint ships with, such as penalties or
        a temperature, is taken over. Raises CheckpointError if the model or its processor does not load."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._path, self._pixels = path, (image_max_pixels, image_min_pixels)
        self.processor = load_processor(path, trust_remote_code=trust_remote_code)
        model = load_vlm(path, dtype=dtype, trust_remote_code=trust_remote_code)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self._ends = end_tokens(self.model, self.processor)
        self.model.generation_config = GenerationConfig(
            eos_token_id=sorted(self._ends), pad_token_id=pad_token(self.processor, self._ends), **sampling
        )

    @torch.inference_mode()
    def replies(self, batch: Sequence[Question], *, draws: LogitsProcessor | None = None) -> list[Reply]:
        """One reply per turn of the batch, in its order. ``draws``: see `drift.inference.draws`; None is greedy.

        Raises CheckpointError if its logits are NaN or infinite.
        """
        inputs = self._inputs(batch).to(self.model.device, dtype=self.model.dtype)
        sound = Soundness()
        processors = LogitsProcessorList([sound, draws] if draws else [sound])
        output = self.model.generate(**inputs, logits_processor=processors)
        if sound.broken:
            raise CheckpointError(
                f"{self._path}: the model's logits are NaN or infinite, computed in {self.model.dtype}; "
                "set dtype: float32 where it is not, or take another checkpoint"
            )
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._reply(row, count) for row, count in zip(rows, prompt_tokens, strict=True)]

    def _inputs(self, batch: Sequence[Question]) -> Any:
        turns = [messages(asked) for asked in batch]
        images = [
            [limit_pixels(decode_image(image, "image"), *self._pixels) for image in images_of(asked)] for asked in batch
        ]
        return self.processor(
            text=self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
            images=[few for few in images if few] or None,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _reply(self, row: list[int], prompt_tokens: int) -> Reply:
        """The tokens before the first end token, as text."""
        length = next((place for place, token in enumerate(row) if token in self._ends), None)
        text = self.processor.tokenizer.decode(row[:length], skip_special_tokens=True).strip()
        drawn = len(row) if length is None else length + 1
        finish_reason = "length" if length is None else "stop"
        return Reply(text, finish_reason, prompt_tokens=prompt_tokens, completion_tokens=drawn)


def end_tokens(model: Any, processor: Any) -> set[int]:
    """Ids of the tokens at which generation ends: the model's and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {int(token) for token in [*listed, processor.tokenizer.eos_token_id] if token is not None}


def pad_token(processor: Any, ends: set[int]) -> int:
    """Id of the padding token; an end token where the tokenizer has none."""
    pad = processor.tokenizer.pad_token_id
    return min(ends) if pad is None else int(pad)

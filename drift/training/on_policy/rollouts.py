"""The student's own answers, drawn from the weights of this step, joined to both prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from drift.config.train import OnPolicyConfig
from drift.data.processed import Batch
from drift.data.rows import media_tokens
from drift.inference.local import end_tokens, pad_token
from drift.training.batches.collate import IGNORE
from drift.training.on_policy.prompts import LEARNS, TEACHER

from transformers import GenerationConfig  # isort: skip  # after our own imports, which mend torchvision's


class Rollouts:
    """Draws an answer for each prompt of a batch (`prompts.PromptCollator`).

    Only ids that both tokenizers have are drawn, and none that stands for an image: the teacher could not read them.
    """

    def __init__(self, config: OnPolicyConfig, network: Any, processor: Any, teacher: Any) -> None:
        self.ends = sorted(end_tokens(network, processor))
        self.settings = GenerationConfig(
            do_sample=True,
            temperature=config.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=pad_token(processor, set(self.ends)),
            suppress_tokens=_unreadable(network.get_output_embeddings().weight.shape[0], processor, teacher) or None,
        )

    @torch.no_grad()
    def drawn(self, network: Any, batch: Batch) -> Batch:
        """``batch`` with an answer behind every prompt, and `labels` (batch, tokens) set on what is learned.

        ``network`` is left in training mode. `learns` becomes (batch, answered): tokens up to the first end token.
        """
        told, learns = parted(batch)[1], batch[LEARNS]
        own = {name: value for name, value in parted(batch)[0].items() if name != LEARNS}
        with _generating(network, self.settings) as asked:
            whole: Tensor = asked.generate(**own)
        answers = whole[:, own["input_ids"].shape[1] :]
        said = self._said(answers)
        learned = said & learns[:, None]
        return {
            **_answered(own, answers, said),
            **{f"{TEACHER}{name}": value for name, value in _answered(told, answers, said).items()},
            "labels": torch.cat([torch.full_like(own["input_ids"], IGNORE), answers.where(learned, IGNORE)], dim=1),
            LEARNS: learned,
        }

    def _said(self, answers: Tensor) -> Tensor:
        """Which tokens are the student's: up to the first end token, and with it."""
        ended = torch.isin(answers, torch.tensor(self.ends, device=answers.device)).long()
        return ended.cumsum(1) - ended == 0


def parted(batch: Batch) -> tuple[Batch, Batch]:
    """The student's part of a batch, and the teacher's, by the names that its network knows."""
    told = {name.removeprefix(TEACHER): value for name, value in batch.items() if name.startswith(TEACHER)}
    return {name: value for name, value in batch.items() if not name.startswith(TEACHER)}, told


def _answered(inputs: Batch, answers: Tensor, said: Tensor) -> Batch:
    """Inputs with the answers behind every (batch, tokens) among them; an image's own stay as they are."""
    behind = {"input_ids": answers, "attention_mask": said.to(inputs["attention_mask"].dtype)}
    shape = inputs["input_ids"].shape
    return {
        name: torch.cat([value, behind.get(name, torch.zeros_like(answers)).to(value.dtype)], dim=1)
        if value.shape == shape
        else value
        for name, value in inputs.items()
    }


@contextlib.contextmanager
def _generating(network: Any, settings: GenerationConfig) -> Iterator[Any]:
    """The network that generates by these settings alone: nothing its checkpoint ships with is taken over."""
    whole = network.get_base_model() if hasattr(network, "peft_config") else network
    kept, whole.generation_config = whole.generation_config, settings
    network.eval()
    try:
        yield whole
    finally:
        whole.generation_config = kept
        network.train()


def _unreadable(width: int, processor: Any, teacher: Any) -> list[int]:
    """Ids below ``width`` that are no token of both tokenizers, or that stand for an image, video or sound."""
    both = set(processor.tokenizer.get_vocab().values()) & set(teacher.get_vocab().values())
    media = processor.tokenizer.convert_tokens_to_ids(media_tokens(processor))
    return sorted(set(range(width)) - (both - set(media)))

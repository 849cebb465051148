"""The text expert that scores rollouts: frozen, with the student's vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.ground.errors import ConfigError
from drift.weights.modeling import load_text_model


class Teacher:
    """π_t: the logits of an answer's tokens, given a problem in words."""

    def __init__(self, path: Path, student: Any) -> None:
        """``student``: its tokenizer. Raises CheckpointError (it does not load) or ConfigError (another vocabulary)."""
        self.network, self.tokenizer = load_text_model(path)
        self.network.requires_grad_(False)
        require_same_vocabulary(student, self.tokenizer, path)

    @torch.no_grad()
    def logits(self, ids: Tensor, mask: Tensor, answered: int) -> Tensor:
        """Logits (batch, answered, vocabulary) that each of the last ``answered`` tokens of ``ids`` was drawn from.

        ``ids`` and ``mask``: (batch, tokens), prompts left-padded, answers right-padded.
        """
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        found: Tensor = self.network(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=answered + 1, use_cache=False
        ).logits
        return found[:, -answered - 1 : -1]


def require_same_vocabulary(student: Any, teacher: Any, path: Path) -> None:
    """Raise ConfigError for an id that two tokenizers both have, and that is another token to each."""
    ours, theirs = ({place: token for token, place in one.get_vocab().items()} for one in (student, teacher))
    for place in sorted(ours.keys() & theirs.keys()):
        if ours[place] != theirs[place]:
            raise ConfigError(
                f"{path}: token {place} is {theirs[place]!r} to the expert and {ours[place]!r} to the student, and"
                " train.method on_policy compares them by id; take an expert with the student's vocabulary, or sft"
            )

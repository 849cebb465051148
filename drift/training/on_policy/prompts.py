"""What a row asks: the student about its images, the teacher in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from drift.data.processed import Batch, processed
from drift.data.rows import require_sound
from drift.ground.errors import CheckpointError, cause
from drift.training.batches.order import FILLS

TEACHER = "teacher_"
"""Before the names of the teacher's inputs in a batch."""
LEARNS = "learns"
"""Of a batch: whether anything is learned from a row (batch,), or from a token of a rollout (batch, answered)."""


def require_words(rows: Sequence[dict[str, Any]]) -> None:
    """Raise DataError, counting the rows that the teacher cannot be asked: without words, or with several answers."""
    require_sound([(row["id"], fault) for row in rows if (fault := _fault(row))])


def _fault(row: dict[str, Any]) -> str:
    if not row.get("text_problem"):
        return "no text_problem, the problem in words, which train.method on_policy asks the expert; add it, or use sft"
    answers = sum(turn.role == "assistant" for turn in row["turns"])
    return f"{answers} answers; train.method on_policy takes one, make a row of each" if answers > 1 else ""


class PromptCollator:
    """Rows → prompts, left-padded, that end where an answer begins: the student's, and `teacher_…` the teacher's.

    The student's is the row's chat up to the answer; the teacher's is `text_problem` as its user's turn, in its own
    chat template. The row's answer is not looked at.
    """

    def __init__(self, processor: Any, tokenizer: Any) -> None:
        self.processor, self.tokenizer = processor, tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        asked = [{**row, "pieces": row["pieces"][:1]} for row in rows]
        batch = processed(self.processor, asked, padding_side="left")
        batch |= {f"{TEACHER}{name}": value for name, value in self._told(rows).items()}
        return {**batch, LEARNS: torch.tensor([FILLS not in row for row in rows])}

    def _told(self, rows: list[dict[str, Any]]) -> Batch:
        """Raises CheckpointError: the teacher's chat template refuses a question."""
        chats = [[{"role": "user", "content": row["text_problem"]}] for row in rows]
        try:
            texts = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template raises what its author wrote
            raise CheckpointError(f"the expert's chat template refuses a problem in words ({cause(error)})") from error
        told = self.tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
        return {name: told[name] for name in ("input_ids", "attention_mask")}

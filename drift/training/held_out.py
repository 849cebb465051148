"""Rows that are not trained on: how the loss and perception go on them, which step was best, and when to stop.

A row is right if the most likely token at each place of its answer is the answer's: greedy decoding would then say the
same, word for word. So one forward pass tells it, however the weights are sharded.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset

from drift.config.train import HeldOutConfig, TrainConfig
from drift.ground.errors import ConfigError
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu
from drift.training.batches.collate import IGNORE, TrainingRows
from drift.training.batches.order import Collate, Filled

allow_cuda_torchvision_on_cpu()  # before transformers, whose trainer imports it

from transformers import TrainerCallback  # noqa: E402
from transformers.trainer_callback import ExportableState  # noqa: E402

logger = logging.getLogger(__name__)

LOSS, RIGHT = "held_out_loss", "perception_right"
"""Numbers of a look: nats per token of the answers, and a share of rows."""


class Split(NamedTuple):
    """What is trained on, and what is looked at; ``perception`` may be without rows."""

    trained: Subset[dict[str, Any]]
    held_out: Subset[dict[str, Any]]
    perception: Any


def split(rows: TrainingRows, config: TrainConfig, processor: Any) -> Split:
    """Rows to train on and rows to look at, by `train.held_out`. Rows of one id stay together.

    Raises ConfigError if none would be left to train on, or if perception is to be watched and there are no rows of it.
    """
    every, wanted = range(len(rows)), config.held_out
    aside = _drawn([row["id"] for row in rows.rows], wanted.share, config.seed) if wanted else set()
    kept = [place for place in every if rows.rows[place]["id"] not in aside]
    looked = [place for place in every if rows.rows[place]["id"] in aside]
    if not kept:
        raise ConfigError(
            f"train.held_out: leaves none of {len(rows)} rows to train on; lower share, or set it to null"
        )
    direct = [place for place in looked if rows.rows[place].get("kind") == "direct"]
    perception: Any = Subset(rows, direct)
    if wanted and wanted.table is not None:
        perception = TrainingRows(Path(wanted.table), processor, config)
    if wanted and wanted.perception_drop is not None and not len(perception):
        raise ConfigError("train.held_out.perception_drop: no row held out is of kind 'direct'; give it a table")
    return Split(Subset(rows, kept), Subset(rows, looked), perception)


def _drawn(ids: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the different ids, at least one: those whose hash with the seed comes first."""
    different = sorted(set(ids), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return set(different[: max(1, round(share * len(different)))])


class Looks(TrainerCallback, ExportableState):
    """Looks at the rows held out every so many steps, the first time before the first step, and stops the training.

    ``rows`` has a row per look: `step`, `time` and its numbers; they are in every checkpoint. ``stopped`` says why the
    training ended early; at that step no checkpoint is made, from which it would go on. The same on every rank.
    """

    def __init__(self, trainer: Any, config: TrainConfig, sets: Split, collate: Collate) -> None:
        self.trainer, self.config, self.collate = trainer, config.held_out, collate
        self.stop_at = config.prior.stop_at if config.prior else None
        self.sets = {LOSS: sets.held_out, RIGHT: sets.perception}
        self.rows: list[dict[str, float]] = []
        self.stopped = ""

    @property
    def best_step(self) -> int:
        """The step whose look has the lowest loss; 0 if there was none."""
        return int(min(self.rows[1:], key=lambda row: row[LOSS])["step"]) if self.rows[1:] else 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first look, or those that were had before a training goes on."""
        stored = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step and stored is not None:
            self.rows = list(stored["attributes"]["rows"])
        elif self.config is not None:
            self._look(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A look, where it is time; the step that was best so far is saved, if the best is wanted."""
        if self.config is None or (state.global_step % self.config.every and state.global_step != state.max_steps):
            return
        self._look(state)
        if self.config.keep == "best" and self.best_step == state.global_step:
            state.best_global_step, control.should_save = state.global_step, True
        self._stop(state, control, self._reason(self.config))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Whether the weights have gone far enough."""
        if self.stop_at is not None and logs.get("projection", 0.0) >= self.stop_at:
            reached = f"projection {logs['projection']:.3f} at step {state.global_step}"
            self._stop(state, control, f"{reached}, train.prior.stop_at is {self.stop_at}")

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint's `trainer_state.json`."""
        return {"args": {}, "attributes": {"rows": self.rows}}

    def _reason(self, config: HeldOutConfig) -> str:
        first, now = self.rows[0], self.rows[-1]
        worse = len(self.rows) - 1 - next(k for k, row in enumerate(self.rows) if row["step"] == self.best_step)
        if config.patience is not None and worse >= config.patience:
            return f"no lower loss on the rows held out since step {self.best_step}, in {worse} looks"
        if config.perception_drop is not None and first[RIGHT] - now[RIGHT] > config.perception_drop:
            return f"perception fell from {first[RIGHT]:.3f} to {now[RIGHT]:.3f} at step {int(now['step'])}"
        return ""

    def _stop(self, state: Any, control: Any, reason: str) -> None:
        if reason and state.global_step < state.max_steps:
            self.stopped, control.should_training_stop, control.should_save = reason, True, False
            logger.warning("stopped early: %s", reason)

    def _look(self, state: Any) -> None:
        row = {"step": state.global_step, "time": round(time.time(), 3)}
        loss, tokens, _, _ = self._sums(self.sets[LOSS])
        row[LOSS] = loss / tokens
        if len(self.sets[RIGHT]):
            *_, right, rows = self._sums(self.sets[RIGHT])
            row[RIGHT] = right / rows
        self.rows.append(row)
        self.trainer.curves.tell(row)

    def _sums(self, rows: Any) -> list[float]:
        """Over all rows and ranks: nats, tokens, rows that are right, rows."""
        trainer, filled = self.trainer, Filled(rows)
        ranks, batch = trainer.accelerator.num_processes, trainer.args.train_batch_size
        own = range(trainer.accelerator.process_index, len(rows) + -len(rows) % ranks, ranks)
        trainer.model_wrapped.eval()
        sums = torch.zeros(4, device=trainer.accelerator.device)
        for start in range(0, len(own), batch):
            inputs = self.collate([filled[place] for place in own[start : start + batch]])
            sums += self._batch(trainer._prepare_inputs(inputs))
        trainer.model_wrapped.train()
        whole: Any = trainer.accelerator.reduce(sums, "sum")
        return [float(value) for value in whole]

    def _batch(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = inputs.pop("labels")
        with torch.no_grad(), self.trainer.compute_loss_context_manager():
            logits = self.trainer.model_wrapped(**inputs).logits
        return torch.stack([_of_row(*pair) for pair in zip(logits, labels, strict=True)]).sum(0)


def _of_row(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats, tokens, whether all are right, and 1; four zeros for a row that only fills its place."""
    learned = labels[1:] != IGNORE
    chosen, answer = logits[:-1][learned].float(), labels[1:][learned]
    if not len(answer):
        return chosen.new_zeros(4)
    nats = cross_entropy(chosen, answer, reduction="sum")
    right = (chosen.argmax(-1) == answer).all()
    return torch.stack([nats, *(number.float() for number in (learned.sum(), right, learned.any()))])

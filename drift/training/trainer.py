"""transformers' Trainer, as a guided training of a multimodal model needs it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from drift.config.train import TrainConfig
from drift.prior.callback import PriorCallback
from drift.prior.shards import require_float32_masters
from drift.training.batches.order import RowOrder
from drift.training.held_out import Looks
from drift.training.safety.checkpoints import mark
from drift.training.safety.room import writing
from drift.training.safety.stopping import Grace, Spared
from drift.training.safety.watch import Watch
from drift.training.telling import Curves
from drift.weights.modeling import load_vlm

from transformers import Trainer, TrainerCallback  # isort: skip  # after the callback

logger = logging.getLogger(__name__)


class VlmTrainer(Trainer):
    """transformers' Trainer with the loss and the order of rows asked for; loads checkpoints by their files' names.

    The Qwen-VL classes say that they take no loss arguments, so Trainer averages the means of micro-batches: the
    weights depend on how a batch is cut. That is `loss: micro_batch`, and what the released code does. They do take
    them: with the count, each token weighs the same.
    """

    guidance: PriorCallback | None = None
    curves: Curves
    watch: Watch
    looks: Looks
    order: RowOrder
    skipped = 0
    repeated = 0

    def __init__(self, config: TrainConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.curves = Curves()
        self.watch = Watch()
        self.model_accepts_loss_kwargs = config.loss == "token"

    def get_train_dataloader(self) -> Any:
        """accelerate's loader, in the order asked for, whose workers leave SIGTERM to this process."""
        loader: Any = super().get_train_dataloader()
        loader.set_sampler(self.order)
        loader.worker_init_fn = Spared(loader.worker_init_fn)
        return loader

    def take_back(self, checkpoints: Path, step: int) -> None:
        """Go back to the weights of a step, which was saved when it was the best; the last step's are here already."""
        best = checkpoints / f"checkpoint-{step}"
        if step in (0, self.state.global_step):
            return
        if not best.is_dir():
            logger.warning("%s, the best, is no longer there: the model is that of the last step", best)
            return
        self.state.best_model_checkpoint = str(best)
        self._load_best_model()

    def _load_best_model(self) -> None:
        if hasattr(self.model, "peft_config") or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch, whose loss is watched."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.watch.add_loss(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once a step, before the weights move; the norm is watched."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.watch.see_norm(norm)
        return norm

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers' own way, not strict, leaves a Qwen2.5-VL as it was: its files have older names."""
        network: Any = model or self.model
        if hasattr(network, "peft_config") or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            network.load_state_dict(load_vlm(resume_from_checkpoint, dtype="float32").state_dict())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As transformers does, with a full disk said in one line."""
        with writing(checkpoint_of(self.args, self.state)):
            super()._save_checkpoint(model, trial)


def checkpoint_of(args: Any, state: Any) -> Path:
    """That of this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


class Safeguards(TrainerCallback):
    """Refuses an optimizer without float32 masters and a disk without room, marks checkpoints that are whole, and lets
    all ranks save and stop when one was asked to end.

    ``require_room`` takes the network and the number of steps, and raises DiskError.
    """

    def __init__(self, grace: Grace, require_room: Callable[[Any, int], None]) -> None:
        self.grace, self.require_room = grace, require_room

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises PriorError, DiskError."""
        require_float32_masters(kwargs["optimizer"])
        state.compute_steps(args, state.max_steps)  # a checkpoint brings those it was made with
        self.grace.meet()
        if state.is_world_process_zero:
            self.require_room(kwargs["model"], state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save this step and stop behind it, if any rank was asked to end."""
        if self.grace.agreed():
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint of this step."""
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        checkpoint = checkpoint_of(args, state)
        with writing(checkpoint):
            mark(checkpoint)
        if self.grace.stopped:
            logger.warning("%s is whole: the same command goes on from it", checkpoint)

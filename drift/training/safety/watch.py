"""Ends a training at its first loss, gradient norm or weight that is NaN or infinite, before any of it is saved."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce

from drift.ground.errors import TrainingError
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu
from drift.prior.callback import PriorCallback, full_number
from drift.weights.storage.finite import first_not_finite

allow_cuda_torchvision_on_cpu()  # before transformers, whose trainer imports it

from transformers import TrainerCallback  # noqa: E402


class Watch(TrainerCallback):
    """Looks at every step before the optimizer moves the weights, and at the weights before they are saved.

    DeepSpeed steps inside the backward pass, so there the step has been made, or skipped by itself. Every rank raises
    the same TrainingError. The trainer says `add_loss` for each micro-batch and `see_norm` once a step; ``guidance`` is
    the prior, which clips after its bias. A step waits for the device, and reduces one number over the ranks.
    """

    guidance: PriorCallback | None = None

    def __init__(self) -> None:
        self._loss: torch.Tensor | None = None
        self._norm: tuple[Any] | None = None
        self._rate = 0.0
        self._last: tuple[float, int] | None = None
        self._kept = 0

    def add_loss(self, loss: torch.Tensor) -> None:
        """A micro-batch's part of the step's loss on this rank."""
        self._loss = loss if self._loss is None else self._loss + loss

    def see_norm(self, norm: Any) -> None:
        """‖g‖ of the step, over all ranks, as the trainer has it: a tensor, a number, or None where it is not known."""
        self._norm = (norm,)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A training that goes on has the checkpoint it goes on from."""
        self._kept = state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises TrainingError for this step's loss and gradient."""
        assert self._loss is not None and self._norm is not None, "the trainer has said neither loss nor norm"
        loss, (norm,), step = float(reduce(self._loss)), self._norm, state.global_step + 1
        self._loss = self._norm = None
        self._rate = kwargs["optimizer"].param_groups[0]["lr"]
        if not math.isfinite(loss):
            raise self._ends(args, step, f"the loss is {loss}")
        skipped = getattr(kwargs["optimizer"], "step_was_skipped", False)  # by DeepSpeed, for infinite gradients
        guided = self.guidance.norm if self.guidance else None
        if skipped or not all(map(_is_norm, (full_number(norm), guided))):
            raise self._ends(args, step, "the gradient is NaN or infinite")
        self._last = loss, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises TrainingError for the trained weights, if they are about to be saved."""
        if not (control.should_save or control.should_training_stop):
            return
        trained = ((name, p) for name, p in kwargs["model"].named_parameters() if p.requires_grad)
        mine = [first_not_finite(trained)]
        found = [name for name in (gather_object(mine) if PartialState().num_processes > 1 else mine) if name]
        if found:
            raise self._ends(args, state.global_step, f"the weight '{found[0]}' is NaN or infinite")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """This step's checkpoint is whole."""
        self._kept = state.global_step

    def _ends(self, args: Any, step: int, what: str) -> TrainingError:
        if self._last is None and not self._kept:
            before, remedy = "no step before it", "the model or these rows are at fault; try train.bf16=false"
        else:
            before = f"last finite loss {self._last[0]:.4g} at step {self._last[1]}" if self._last else "resumed here"
            remedy = "lower train.learning_rate or raise train.warmup_ratio"
        kept = f"; checkpoint-{self._kept} in {args.output_dir} is kept" if self._kept else ""
        return TrainingError(
            f"step {step}: {what} (learning rate {self._rate:.3g}, {before}); no model is written; {remedy}{kept}"
        )


def require_finite_result(network: Any) -> None:
    """Raise TrainingError if a weight of the final model, in the dtype it is saved in, is NaN or infinite."""
    if name := first_not_finite(network.named_parameters()):
        dtype = network.get_parameter(name).dtype
        raise TrainingError(
            f"the trained weight '{name}' is NaN or infinite as {dtype}, which the model came in; no model is written; "
            "lower train.learning_rate"
        )


def _is_norm(norm: float | None) -> bool:
    """Whether a norm is one, as far as it is known; DeepSpeed writes -1 for NaN and infinity."""
    return norm is None or (math.isfinite(norm) and norm >= 0)

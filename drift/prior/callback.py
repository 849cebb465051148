"""The prior in any trainer built on transformers' (TRL's SFTTrainer, LLaMA-Factory's): one callback.

The callback binds when training begins, guides before clipping, logs beside the loss, and keeps Δ's hash in every
checkpoint, so that a training cannot go on with another Δ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from drift.ground.errors import PriorError
from drift.ground.torchvision import allow_cuda_torchvision_on_cpu
from drift.prior.prior import BindReport, Prior

allow_cuda_torchvision_on_cpu()  # transformers imports torchvision
from transformers.trainer_callback import ExportableState, TrainerCallback  # noqa: E402


class PriorCallback(TrainerCallback, ExportableState):
    """Guides a Trainer's steps by ``prior``: `trainer.add_callback(PriorCallback(prior))`.

    Trainer clips before it calls any callback. To have the paper's order (`clip: before`) the callback takes the
    clipping over: it sets `args.max_grad_norm` to 0 during the training and clips to the old value itself, after
    the bias. DeepSpeed clips inside its own step, and is left to it.

    ``report`` is what was bound; ``cosines`` has, per logged step, the mean cos(g, Δ) of every layer.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.report: BindReport | None = None
        self.cosines: list[dict[str, Any]] = []
        self._max_norm = 0.0
        self._norm: Tensor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Bind, and check that a resumed training had this Δ. Raises PriorError."""
        self.report = self.prior.bind(kwargs["model"], kwargs["optimizer"], total_steps=state.max_steps)
        stored = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step and stored is None:
            raise PriorError("the checkpoint was trained without a prior; start afresh, or remove the callback")
        if stored is not None:
            self.prior.load_state_dict(stored["attributes"]["prior"])
            self.cosines = list(stored["attributes"]["cosines"])
        self.prior.step = state.global_step
        if self.prior.guides_before_clipping:
            self._max_norm, args.max_grad_norm = args.max_grad_norm, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The schedule of α follows the trainer's count of steps."""
        self.prior.step = state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Guide, then clip to the norm that Trainer would have clipped to."""
        if self._max_norm:
            self.prior.guide()
            self._norm = torch.nn.utils.clip_grad_norm_(kwargs["model"].parameters(), self._max_norm)

    @property
    def norm(self) -> float | None:
        """‖g~‖ of the last step before it was clipped; None where another clips. A collective call under FSDP2."""
        return full_number(self._norm)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the prior's numbers to those of the step, also in the trainer's history."""
        if "loss" not in logs:
            return
        more = self.prior.metrics()
        if (norm := self.norm) is not None:
            more["grad_norm"] = norm
        if layers := self.prior.layer_cosines():
            self.cosines.append({"step": state.global_step, "layers": layers})
        logs.update(more)
        state.log_history[-1].update(more)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the clipping back and let go of the optimizer."""
        if self._max_norm:
            args.max_grad_norm, self._max_norm = self._max_norm, 0.0
        self.prior.unbind()

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint's `trainer_state.json`."""
        return {"args": {}, "attributes": {"prior": self.prior.state_dict(), "cosines": self.cosines}}


def full_number(value: Any) -> float | None:
    """A number that may be a tensor, and sharded under FSDP2, as Python's; None stays None. Collective if sharded."""
    if value is None:
        return None
    return float(value.full_tensor() if isinstance(value, DTensor) else value)

"""The trainer of on-policy distillation: each step draws rollouts, then lowers their reverse KL to the teacher.

The prior, the optimizer, checkpoints and looks are those of the supervised training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from drift.config.train import TrainConfig
from drift.training.on_policy.divergence import reverse_kl
from drift.training.on_policy.prompts import LEARNS
from drift.training.on_policy.rollouts import Rollouts, parted
from drift.training.on_policy.teacher import Teacher
from drift.training.trainer import VlmTrainer


class OnPolicyTrainer(VlmTrainer):
    """`VlmTrainer` on the student's own answers. All micro-batches of a step are drawn before its first gradient, from
    the weights of that step, so that `loss: token` knows how many tokens the step has.
    """

    def __init__(self, config: TrainConfig, teacher: Teacher, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.teacher, self.temperature = teacher, config.on_policy.temperature
        self.teacher.network.to(self.accelerator.device)
        self.rollouts = Rollouts(config.on_policy, self.model, self.processing_class, teacher.tokenizer)
        self.rollout_tokens = 0.0

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """The batches of one step with answers, and how many of their tokens are learned."""
        prompts, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        network = self.accelerator.unwrap_model(self.model_wrapped)
        with self.compute_loss_context_manager():
            batches = [self.rollouts.drawn(network, self._prepare_inputs(batch)) for batch in prompts]
        if batches:
            lengths = torch.cat([batch[LEARNS].sum(1) for batch in batches])
            self.rollout_tokens = float(lengths.float().mean())
        return batches, self._get_num_items_in_batch(batches, device)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean reverse KL in nats over the step's learned tokens (`loss: token`), or over this micro-batch's."""
        own, told = parted(inputs)
        learned = own.pop(LEARNS)
        own.pop("labels")
        answered = learned.shape[1]
        student = model(**own, logits_to_keep=answered + 1).logits[:, -answered - 1 : -1]
        teacher = self.teacher.logits(told["input_ids"], told["attention_mask"], answered)
        nats = reverse_kl(student[learned], teacher[learned], self.temperature)
        if num_items_in_batch is None:
            return nats / learned.sum().clamp(min=1)
        return nats / num_items_in_batch * self.accelerator.num_processes  # ranks' gradients are averaged

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Beside the loss the mean tokens of this rank's rollouts in the last step."""
        if "loss" in logs:
            logs["rollout_tokens"] = self.rollout_tokens
        super().log(logs, start_time)

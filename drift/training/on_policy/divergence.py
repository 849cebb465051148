"""The loss of on-policy distillation: per token the reverse KL of the student to the teacher, over the vocabulary.

For a rollout y ~ π_s(· | image) of a problem whose words are x, at each of its tokens

    D_t = Σ_v π_s(v | image, y_<t) · (log π_s(v | image, y_<t) − log π_t(v | x, y_<t)).

No gradient flows through the draw of y: "on-policy" GKD (Agarwal et al., arXiv 2306.13649, its λ = 1 with the reverse
KL), and what TRL's DistillationTrainer does by default. One number per token, log π_s(y_t) − log π_t(y_t) as an
advantage, has the same gradient in expectation (at temperature 1, without a discount) and more variance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

AT_ONCE = 512
"""Tokens whose distributions are in memory together: one is 0.6 MB in float32 where the vocabulary has 152,064."""


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Σ over tokens of KL(π_s ‖ π_t) in nats, a float32 scalar with the student's gradient.

    ``student``, ``teacher``: logits (tokens, width of each) by id. Both are taken over the ids that both have, since
    checkpoints of a family differ in the rows that fill their embeddings up. Distributions are softmax(logits / T).
    """
    width = min(student.shape[-1], teacher.shape[-1])
    pairs = zip(student[:, :width].split(AT_ONCE), teacher[:, :width].split(AT_ONCE), strict=True)
    return torch.stack([checkpoint(_nats, *pair, temperature, use_reentrant=False) for pair in pairs]).sum()


def _nats(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """torch's `kl_div` has the distribution that is summed over as its second argument."""
    own, other = (log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    return kl_div(other, own, reduction="sum", log_target=True)

"""Seeded draws: their distribution, and that a row's draws are its own."""

import pytest
import torch

from drift.inference.draws import Draws

LOGITS = torch.tensor([0.0, 1.0, 2.0, -float("inf")])
STEPS = 4000


def drawn(draws: Draws, rows: int, steps: int = STEPS) -> torch.Tensor:
    """Steps x rows: the choices of a greedy generation with the same logits at every step."""
    return torch.stack([draws(torch.empty(rows, 0), LOGITS.repeat(rows, 1)).argmax(dim=1) for _ in range(steps)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choices_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    shares = drawn(Draws(temperature, [1, 2]), 2).flatten().bincount(minlength=4) / (2 * STEPS)
    # standard error of a share: √(0.25 / 8000) = 0.0056
    assert shares == pytest.approx((LOGITS / temperature).softmax(dim=0), abs=0.023)
    assert shares[3] == 0


def test_a_rows_draws_depend_on_its_seed_alone() -> None:
    together = drawn(Draws(1.0, [5, 6, 7]), 3, 50)
    alone = drawn(Draws(1.0, [6]), 1, 50)
    assert together[:, 1].tolist() == alone[:, 0].tolist()
    assert together[:, 0].tolist() != together[:, 2].tolist()

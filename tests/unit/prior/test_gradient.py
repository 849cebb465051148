"""The guided gradient, worked by hand, then its properties, then its edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drift.prior import gradient

# g = (3, 4): ‖g‖ = 5.  Δ = (0, 2): ‖Δ‖ = 2.  ⟨g, Δ⟩ = 8, so cos = 8 / (5·2) = 0.8.
G, DELTA = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])

SCALES = ["absolute", "grad_norm", "adaptive", "adaptive_descent"]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("absolute", [3.0, 4 - 2]),  # g − Δ
        ("grad_norm", [3, 4 - 5 / 2 * 2]),  # g − ‖g‖ Δ/‖Δ‖
        ("adaptive", [3, 4 - (1 + 0.8) / 2 * 5 / 2 * 2]),  # α′ = −0.9
        ("adaptive_descent", [3, 4 - (1 - 0.8) / 2 * 5 / 2 * 2]),  # α′ = −0.1
    ],
)
def test_each_scale_equals_the_paper_formula_worked_by_hand(scale, expected):
    torch.testing.assert_close(gradient.guide(scale, -1.0, G, DELTA), torch.tensor(expected))


def test_absolute_rescaled_to_the_weight_moves_by_the_weights_norm():
    # ‖φ‖ = 6, so Δ is first scaled to (0, 6): g − (0, 6).
    c = gradient.coefficient(
        "absolute", -1.0, G.norm(), DELTA.norm(), torch.dot(G, DELTA), rescale_to=torch.tensor(6.0)
    )
    torch.testing.assert_close(G + c * DELTA, torch.tensor([3.0, -2.0]))


@pytest.mark.parametrize("scale", SCALES)
def test_negative_alpha_lets_the_optimizer_move_towards_the_expert(scale):
    orthogonal = torch.tensor([1.0, 0.0])  # carries no information along Δ
    step = -gradient.guide(scale, -1.0, orthogonal, DELTA)  # what the optimizer adds to the weights
    assert torch.dot(step, DELTA) > 0


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_alpha_zero_returns_the_gradient_bit_for_bit(scale, dtype):
    g = torch.randn(7, 5).to(dtype)
    assert torch.equal(gradient.guide(scale, 0.0, g, torch.randn(7, 5)), g)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("g", "delta"), [(torch.zeros(2), DELTA), (G, torch.zeros(2))])
def test_a_zero_gradient_or_a_zero_prior_changes_nothing(scale, g, delta):
    assert torch.equal(gradient.guide(scale, -1.0, g, delta), g)


@pytest.mark.parametrize("scale", SCALES)
def test_a_gradient_that_is_not_finite_gets_no_bias(scale):
    g = torch.tensor([float("inf"), 1.0])
    assert gradient.guide(scale, -1.0, g, DELTA)[1] == 1.0


vectors = hnp.arrays("float32", 6, elements=st.floats(-10, 10, width=32)).map(torch.from_numpy)
usable = vectors.filter(lambda v: float(v.norm()) > 1e-2)


@given(usable, usable, st.floats(-2, 2))
def test_the_bias_of_grad_norm_is_alpha_times_the_gradients_norm(g, delta, alpha):
    bias = gradient.guide("grad_norm", alpha, g, delta) - g
    torch.testing.assert_close(bias.norm(), abs(alpha) * g.norm(), rtol=1e-3, atol=1e-4)


@given(usable, usable, st.sampled_from(SCALES))
def test_the_bias_is_parallel_to_the_prior_whatever_the_scale(g, delta, scale):
    bias = gradient.guide(scale, -1.0, g, delta) - g
    across = bias - torch.dot(bias, delta) / torch.dot(delta, delta) * delta
    assert float(across.norm()) <= 1e-5 * float(bias.norm() + g.norm())


@given(usable, usable)
def test_the_bias_of_adaptive_lies_between_nothing_and_alpha(g, delta):
    ratio = float((gradient.guide("adaptive", -1.0, g, delta) - g).norm() / g.norm())
    cos = float(torch.dot(g, delta) / (g.norm() * delta.norm()))
    assert ratio == pytest.approx((1 + cos) / 2, abs=1e-3)


@given(usable, usable, st.floats(0.125, 8))
def test_the_length_of_the_prior_does_not_matter_except_for_absolute(g, delta, factor):
    for scale in SCALES[1:]:
        same = gradient.guide(scale, -1.0, g, delta * factor)
        torch.testing.assert_close(same, gradient.guide(scale, -1.0, g, delta), rtol=1e-3, atol=1e-3)


@given(usable, usable, st.floats(0.125, 8))
def test_scaling_the_gradient_scales_the_bias_except_for_absolute(g, delta, factor):
    for scale in SCALES[1:]:
        scaled = gradient.guide(scale, -1.0, g * factor, delta)
        torch.testing.assert_close(scaled, factor * gradient.guide(scale, -1.0, g, delta), rtol=1e-3, atol=1e-3)


@given(usable)
def test_a_gradient_straight_against_the_prior_gets_no_adaptive_bias(g):
    torch.testing.assert_close(gradient.guide("adaptive", -1.0, g, -g), g, rtol=1e-3, atol=1e-3)

"""Sums over a tensor as large as a layer's experts: torch's own on a CPU are off by percents there."""

import math

import pytest
import torch

from drift.prior.sums import STRETCH, dot, square


def test_sums_over_very_many_elements_are_right() -> None:
    many = torch.full((1 << 26,), 0.1)
    exact = math.fsum([float(many[0].double()) ** 2]) * many.numel()
    assert float(torch.dot(many, many)) != pytest.approx(exact, rel=5e-3)  # why these are not torch's
    assert float(dot(many, many)) == pytest.approx(exact, rel=1e-3)
    assert float(square(many)) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (STRETCH + 1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_they_are_float32_sums_of_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    a, b = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for ours, exact in ((dot(a, b), (a.double() * b.double()).sum()), (square(a), a.double().square().sum())):
        assert ours.dtype == torch.float32 and ours.shape == ()
        assert float(ours) == pytest.approx(float(exact), rel=1e-4, abs=0.1 if a.numel() > STRETCH else 1e-5)

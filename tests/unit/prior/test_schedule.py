"""How α changes over the steps: worked by hand, then what must hold for every schedule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drift.config.train import ScheduleConfig
from drift.ground.errors import PriorError
from drift.prior.schedule import needs_total_steps, strength

KINDS = ["constant", "linear", "cosine"]


def alphas(schedule, total=8, alpha=-1.0, projection=0.0):
    config = ScheduleConfig(**schedule)
    return [float(strength(config, alpha, step, total, lambda: torch.tensor(projection))) for step in range(total)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [-1, -1, -1, -1]),
        ({"kind": "linear"}, [-1, -0.75, -0.5, -0.25]),  # 1 − t/4
        ({"kind": "linear", "end": 0.5}, [-1, -0.5, 0, 0]),  # 1 − t/2, then 0
        # (1 + cos(π t/4))/2 at t = 1: (1 + 0.7071)/2
        ({"kind": "cosine"}, [-1, -0.853553, -0.5, -0.146447]),
        ({"warmup": 0.5}, [-0.5, -1, -1, -1]),  # (t + 1)/2
        ({"kind": "linear", "warmup": 0.5}, [-0.5, -0.75, -0.5, -0.25]),
    ],
)
def test_each_schedule_equals_its_formula_worked_by_hand(schedule, expected):
    assert alphas(schedule, total=4) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    # start 0.5, target 1: whole until 0.5, then falling in a straight line, and never pushing back.
    ("projection", "expected"),
    [(0.0, -1.0), (0.5, -1.0), (0.75, -0.5), (1.0, 0.0), (1.5, 0.0)],
)
def test_the_projection_schedule_falls_to_zero_at_its_target(projection, expected):
    schedule = {"kind": "projection", "start": 0.5, "target": 1.0}
    assert alphas(schedule, projection=projection) == pytest.approx([expected] * 8)


def test_the_projection_is_taken_only_where_it_matters():
    def forbidden():
        raise AssertionError("taken")

    assert strength(ScheduleConfig(kind="linear"), -1.0, 0, 4, forbidden) == -1.0
    assert strength(ScheduleConfig(kind="projection"), 0.0, 0, None, forbidden) == 0.0


@given(st.sampled_from(KINDS), st.floats(0, 1), st.floats(0.1, 1), st.integers(1, 50))
def test_no_schedule_turns_alpha_round_or_makes_it_larger(kind, warmup, end, total):
    values = alphas({"kind": kind, "warmup": warmup, "end": end}, total=total)
    assert all(-1.0 <= value <= 0.0 for value in values)


@given(st.sampled_from(KINDS), st.integers(1, 50), st.data())
def test_alpha_depends_on_the_step_alone_so_that_a_resumed_run_goes_on_exactly(kind, total, data):
    step = data.draw(st.integers(0, total - 1))
    assert alphas({"kind": kind}, total=total)[step] == strength(ScheduleConfig(kind=kind), -1.0, step, total, None)


@pytest.mark.parametrize("schedule", [{"kind": "linear"}, {"kind": "cosine"}, {"warmup": 0.1}])
def test_a_schedule_over_the_steps_needs_their_number(schedule):
    assert needs_total_steps(ScheduleConfig(**schedule))
    with pytest.raises(PriorError, match="needs the number of steps; give total_steps to bind"):
        strength(ScheduleConfig(**schedule), -1.0, 0, None, None)

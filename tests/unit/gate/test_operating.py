"""What the gate says of itself, worked by hand."""

import numpy as np
import pytest

from drift.config.gate import GateConfig
from drift.gate.operating import chance, paper_gains
from drift.gate.resolution import questions_needed, samples_needed
from drift.gate.statistics import Pair, compare_pairs


def pairs(rows: int) -> dict[str, Pair]:
    """Two benchmarks on which two equal models differ in 20 of 100 questions."""
    d = np.resize([1.0, -1, 0, 0, 0, 0, 0, 0, 0, 0], rows)
    one = {"reasoning": "Sums", "perception": "Colours"}
    return {name: Pair(role, {name: d}, np.arange(rows), rows // 10, rows // 10) for role, name in one.items()}


def test_an_equal_model_passes_reasoning_in_one_of_twenty_and_perception_by_the_power_of_its_margin() -> None:
    # SE = √(0.2/4000) = 0.707 points. A margin of 2.486 SE is passed in 80 %; Holm over one column stops 5 % of them,
    # all of which the margin lets pass only if d > −0.84 SE: none. 0.05 · 0.8 = 0.04.
    comparison = compare_pairs(pairs(4000), resamples=4000)
    assert comparison.perception is not None
    config = GateConfig(candidate="drift", max_perception_loss=comparison.perception.detectable, looks=1)
    assert chance(config, comparison, {}) == pytest.approx(0.04, abs=0.006)
    assert chance(GateConfig(candidate="drift"), comparison, {}) < 0.003, "at one of 60 looks"


def test_the_papers_gains_are_looked_up_by_column_and_others_take_the_mean_of_their_role() -> None:
    # (2.0 + 1.6 + 2.5 + 4.2 + 7.4 + 0.5)/6 = 3.033 and (0.53 + 0.90 + 4.40)/3 = 1.943
    assert paper_gains(compare_pairs(pairs(20))) == pytest.approx({"Sums": 3.033, "Colours": 1.943}, abs=1e-3)
    named = {"MMStar": pairs(20)["Colours"]}
    assert paper_gains(compare_pairs({"MMStar": Pair("perception", {"MMStar": named["MMStar"].differences["Colours"]},
                                                      named["MMStar"].clusters, 2, 2)})) == {
                                                      "MMStar": pytest.approx(0.9)}  # fmt: skip


def asked(samples: int, noise: float) -> Pair:
    """1,000 questions with a variance of 0.2 each, of which ``noise`` from their samples."""
    d = np.resize([1.0, -1, 0, 0, 0, 0, 0, 0, 0, 0], 1000)
    spread = {"Colours": np.full(1000, noise)} if samples > 1 else {}
    return Pair("perception", {"Colours": d}, np.arange(1000), 100, 100, samples, spread)


@pytest.mark.parametrize(("samples", "noise", "needed"), [(1, 0.0, 3), (2, 0.1, 5), (2, 0.04, None), (4, 0.15, 7)])
def test_samples_are_asked_for_as_far_as_they_are_what_is_unsure(
    samples: int, noise: float, needed: int | None
) -> None:
    # V = 0.2/999 = 2.002 in points², q(ln α)²/z² = 0.0332, and for a margin of 3.4 SE² = (3.4/2.820)² = 1.4535 will do.
    # Once: V/2 is taken for noise, 1.001/(1.4535 − 1.001 − 0.033) = 2.4. Twice, half known as noise: 2·1/(1.4535 −
    # 1.002 − 0.033) = 4.8; with 0.4 of it no number does. Four times: 4·1.5/(1.4535 − 0.502 − 0.033) = 6.5
    mean = compare_pairs({"Colours": asked(samples, noise)}).perception
    assert mean is not None
    assert samples_needed(mean, 3.4, 0.95) == needed


def test_questions_are_asked_for_by_the_square_of_the_margin() -> None:
    mean = compare_pairs({"Colours": asked(1, 0)}).perception
    assert mean is not None
    one, half = (questions_needed(mean, margin, 0.95) for margin in (1.0, 0.5))
    assert one is not None and half is not None
    assert half / one == pytest.approx(4, rel=0.01)
    # 2.002·(2.820/1)² = 15.9 times as many
    assert one == pytest.approx(15_930, rel=0.01)
    assert questions_needed(mean, 0.0, 0.95) is None

"""Paired differences, worked by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from drift.gate.comparison import compare
from drift.gate.statistics import Pair, compare_pairs, detectable_effect, mcnemar_p_value, worse_p_value
from drift.ground.errors import DataError
from tests.score_folders import write_score_folder


def folders(tmp_path: Path, ours: dict[str, str], theirs: dict[str, str], **more: object) -> tuple[Path, Path]:
    return write_score_folder(tmp_path / "ours", ours, **more), write_score_folder(tmp_path / "theirs", theirs, **more)


def test_a_difference_is_in_points_with_gained_and_lost_questions(tmp_path: Path) -> None:
    # Sums: + + − 0 = 1/4 = 25 points. Angles: 0 + = 50 points. Mean of the benchmarks, not of the questions: 37.5.
    ours, theirs = folders(tmp_path, {"Sums": "1101", "Angles": "01"}, {"Sums": "0011", "Angles": "00"})
    comparison = compare(ours, theirs)
    sums, reasoning = comparison.columns["Sums"], comparison.reasoning
    assert (sums.points, sums.gained, sums.lost, sums.n) == (25, 2, 1, 4)
    assert reasoning is not None
    assert (reasoning.points, reasoning.gained, reasoning.lost, reasoning.n) == (37.5, 3, 1, 6)
    assert comparison.perception is None


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 0, 2 / 32), (1, 5, 2 * 7 / 64), (3, 3, 1.0), (0, 10, 2 / 1024)],
)
def test_mcnemar_is_the_exact_two_sided_sign_test(gained: int, lost: int, p: float) -> None:
    # P(X <= min) of Binomial(n, 1/2): for 1 of 6 it is (1 + 6) / 64
    assert mcnemar_p_value(gained, lost) == pytest.approx(p)


def test_the_interval_is_near_the_normal_one_on_many_questions(tmp_path: Path) -> None:
    # d: 60 times +1, 20 times −1, 320 times 0. mean = 0.1, variance = 80/400 − 0.01 = 0.19, se = √(0.19/400) = 0.0218
    ours, theirs = folders(
        tmp_path, {"Sums": "1" * 60 + "0" * 20 + "1" * 320}, {"Sums": "0" * 60 + "1" * 20 + "1" * 320}
    )
    difference = compare(ours, theirs, resamples=4000).columns["Sums"]
    assert difference.points == pytest.approx(10)
    assert difference.low == pytest.approx(10 - 196 * 0.0218, abs=0.4)
    assert difference.high == pytest.approx(10 + 196 * 0.0218, abs=0.4)


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_where_nothing_differed_the_bound_is_the_exact_one_and_no_certainty(tmp_path: Path, n: int) -> None:
    # a loss that shows in a share p of the questions is not seen in n of them with probability (1 − p)^n = 0.05
    ours, theirs = folders(tmp_path, {"Sums": "10" * (n // 2)}, {"Sums": "10" * (n // 2)})
    difference = compare(ours, theirs).columns["Sums"]
    assert (difference.points, difference.p_value) == (0, 1)
    exact = 100 * (1 - 0.05 ** (1 / n))
    assert exact < -difference.lower < exact * (1 + 2 / n)
    assert difference.upper == -difference.lower


def test_losses_without_gains_are_skewed_and_their_bound_lies_outside_the_exact_one(tmp_path: Path) -> None:
    # k of 300 lost, none gained: Clopper and Pearson's upper bound of k/300
    for lost in (1, 2, 5, 15):
        marks = "0" * lost + "1" * (300 - lost)
        difference = compare(*folders(tmp_path / str(lost), {"Sums": marks}, {"Sums": "1" * 300})).columns["Sums"]
        exact = 100 * float(stats.beta.ppf(0.95, lost + 1, 300 - lost))
        assert exact < -difference.lower < 1.2 * exact


def test_one_question_or_one_group_of_questions_shows_nothing(tmp_path: Path) -> None:
    one = compare(*folders(tmp_path / "one", {"Sums": "1"}, {"Sums": "0"})).columns["Sums"]
    group = {"groups": {"Sums": "a" * 100}}
    many = compare(*folders(tmp_path / "many", {"Sums": "1" * 60 + "0" * 40}, {"Sums": "0" * 100}, **group))
    for difference in (one, many.columns["Sums"]):
        assert (difference.lower, difference.clusters) == (-100, 1)


def test_groups_are_drawn_whole_so_that_repeated_questions_do_not_make_it_surer(tmp_path: Path) -> None:
    ours, theirs = {"Sums": "1" * 40 + "0" * 40}, {"Sums": "0" * 40 + "1" * 20 + "0" * 20}
    apart = compare(*folders(tmp_path / "apart", ours, theirs)).columns["Sums"]
    letters = "".join(chr(ord("a") + place // 10) for place in range(80))  # eight groups of ten alike
    whole = compare(*folders(tmp_path / "whole", ours, theirs, groups={"Sums": letters})).columns["Sums"]
    assert apart.points == whole.points == 25
    # ten times fewer independent draws: √V is about √10 times as large
    assert 3 < (whole.spread.variance / apart.spread.variance) ** 0.5 < 3.5


def test_the_same_seed_gives_the_same_interval_and_another_benchmark_does_not_change_it(tmp_path: Path) -> None:
    ours, theirs = {"Sums": "1101001"}, {"Sums": "0100101"}
    one = compare(*folders(tmp_path / "one", ours, theirs), seed=3)
    two = compare(*folders(tmp_path / "two", {"Angles": "01", **ours}, {"Angles": "11", **theirs}), seed=3)
    assert one.columns["Sums"] == two.columns["Sums"]


@settings(max_examples=25, deadline=None)
@given(st.text("01", min_size=1, max_size=30), st.data())
def test_swapping_the_models_turns_the_sign(
    tmp_path_factory: pytest.TempPathFactory, ours: str, data: st.DataObject
) -> None:
    theirs = data.draw(st.text("01", min_size=len(ours), max_size=len(ours)))
    pair = folders(tmp_path_factory.mktemp("pair"), {"Sums": ours}, {"Sums": theirs})
    there, back = (
        compare(*pair, resamples=200).columns["Sums"],
        compare(*pair[::-1], resamples=200).columns["Sums"],
    )
    assert there.points == pytest.approx(-back.points)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p_value == back.p_value
    assert there.low <= there.points + 1e-9


def test_folders_of_another_protocol_or_other_data_are_refused_by_name(tmp_path: Path) -> None:
    ours = write_score_folder(tmp_path / "ours", {"Sums": "10"})
    for name, change in (("protocols", {"protocol": "two"}), ("data", {"data": "two"})):
        theirs = write_score_folder(tmp_path / name, {"Sums": "10"}, **change)
        with pytest.raises(DataError, match=f"ours and .*{name}: measured with different {name}"):
            compare(ours, theirs)


def test_folders_with_other_questions_are_refused_and_the_first_is_named(tmp_path: Path) -> None:
    ours, theirs = folders(tmp_path, {"Sums": "101"}, {"Sums": "10"})
    with pytest.raises(DataError, match=r"ours and .*theirs: Sums index 2 is in only one"):
        compare(ours, theirs)


def one_per_cluster(d: list[float]) -> Pair:
    values = np.array(d, dtype=float)
    gained, lost = int((values > 0).sum()), int((values < 0).sum())
    return Pair("perception", {"Words": values}, np.arange(len(values)), gained, lost)


def test_the_detectable_effect_is_what_power_asks_for() -> None:
    # z_0.95 + z_0.8 = 1.645 + 0.842 = 2.486; at SE = 2 points 4.97
    assert detectable_effect(2.0, 0.95) == pytest.approx(4.973, abs=1e-3)


def test_the_bounds_are_one_sided_at_the_same_confidence() -> None:
    # d: 60 times +1, 20 times −1 of 400: 10 ± 2.18 points; the lower bound is 10 − 1.645·2.18 = 6.4
    difference = compare_pairs({"Words": one_per_cluster([1] * 60 + [-1] * 20 + [0] * 320)}).columns["Words"]
    assert difference.error == pytest.approx(2.18, abs=0.1)
    assert (difference.lower, difference.upper) == pytest.approx((6.41, 13.59), abs=0.3)
    assert difference.low < difference.lower < difference.points < difference.upper < difference.high


@pytest.mark.parametrize(("gained", "lost"), [(2, 7), (0, 5), (10, 12), (6, 1), (0, 0)])
def test_the_sign_flip_test_is_the_one_sided_mcnemar_test_where_clusters_are_questions(gained: int, lost: int) -> None:
    pair = one_per_cluster([1] * gained + [-1] * lost + [0] * 9)
    exact = stats.binom.cdf(gained, gained + lost, 0.5)
    assert worse_p_value(pair, "Words", 20_000, np.random.default_rng(0)) == pytest.approx(exact, abs=0.01)


def test_the_sign_flip_test_over_clusters_is_scipys_permutation_test() -> None:
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 40, 160)
    pair = Pair(
        "perception", {"Words": rng.choice([-1.0, 0, 0, 1], 160)}, np.unique(clusters, return_inverse=True)[1], 0, 0
    )
    sums = pair.cluster_sums(["Words"])
    theirs = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", alternative="less", n_resamples=20_000, rng=rng
    )
    assert worse_p_value(pair, "Words", 20_000, rng) == pytest.approx(float(theirs.pvalue), abs=0.015)


def clustered(rng: np.random.Generator, size: int) -> Pair:
    """80 clusters whose questions mostly share one difference: +1 in 20 of 100, −1 in 10. True Δ: 10 points."""
    clusters = np.repeat(np.arange(80), size)
    drawn = np.where(rng.random(80 * size) < 0.8, rng.random(80)[clusters], rng.random(80 * size))
    return Pair("perception", {"Words": (drawn < 0.2).astype(float) - (drawn > 0.9)}, clusters, 0, 0)


def coverage(pairs: list[Pair]) -> float:
    found = [compare_pairs({"Words": pair}, seed=number).columns["Words"] for number, pair in enumerate(pairs)]
    return float(np.mean([difference.low <= 10 <= difference.high for difference in found]))


def test_the_95_percent_interval_covers_the_truth_in_93_to_97_percent_and_without_clusters_it_would_not() -> None:
    rng = np.random.default_rng(0)
    pairs = [clustered(rng, size=4) for _ in range(1000)]
    assert 0.93 <= coverage(pairs) <= 0.97
    alone = [Pair(pair.role, pair.differences, np.arange(len(pair.clusters)), 0, 0) for pair in pairs[:300]]
    assert coverage(alone) < 0.85


def test_the_interval_of_a_mean_over_dependent_columns_covers_the_truth_too() -> None:
    # strict and loose of the same problems: loose is strict on three units of four, and 1 more often on the rest
    rng = np.random.default_rng(0)
    inside = []
    for number in range(600):
        strict = rng.choice([-1.0, -0.5, 0, 0.5, 1], size=300, p=[0.05, 0.05, 0.7, 0.05, 0.15])  # mean 0.1
        loose = np.where(rng.random(300) < 0.75, strict, rng.choice([0.0, 1], size=300, p=[0.8, 0.2]))  # mean 0.125
        pair = Pair("reasoning", {"W-strict": strict, "W-loose": loose}, np.arange(300), 0, 0)
        mean = compare_pairs({"W": pair}, seed=number).reasoning
        assert mean is not None
        inside.append(mean.low <= 11.25 <= mean.high)
    assert 0.93 <= np.mean(inside) <= 0.97

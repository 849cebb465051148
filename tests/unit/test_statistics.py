"""Paired differences, worked by hand."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift.errors import DataError
from drift.statistics import compare, mcnemar_p_value
from tests.score_folders import write_score_folder


def folders(tmp_path: Path, ours: dict[str, str], theirs: dict[str, str], **more: object) -> tuple[Path, Path]:
    return write_score_folder(tmp_path / "ours", ours, **more), write_score_folder(tmp_path / "theirs", theirs, **more)


def test_a_difference_is_in_points_with_gained_and_lost_questions(tmp_path: Path) -> None:
    # Sums: + + − 0 = 1/4 = 25 points. Angles: 0 + = 50 points. Mean of the benchmarks, not of the questions: 37.5.
    ours, theirs = folders(tmp_path, {"Sums": "1101", "Angles": "01"}, {"Sums": "0011", "Angles": "00"})
    comparison = compare(ours, theirs)
    sums, reasoning = comparison.benchmarks["Sums"], comparison.reasoning
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
    difference = compare(ours, theirs, resamples=4000).benchmarks["Sums"]
    assert difference.points == pytest.approx(10)
    assert difference.low == pytest.approx(10 - 196 * 0.0218, abs=0.4)
    assert difference.high == pytest.approx(10 + 196 * 0.0218, abs=0.4)


def test_equal_models_differ_by_nothing_with_certainty(tmp_path: Path) -> None:
    ours, theirs = folders(tmp_path, {"Sums": "1010"}, {"Sums": "1010"})
    difference = compare(ours, theirs).benchmarks["Sums"]
    assert (difference.points, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


def test_groups_are_drawn_whole_so_that_repeated_questions_do_not_make_it_surer(tmp_path: Path) -> None:
    ours, theirs = {"Sums": "1" * 40 + "0" * 40}, {"Sums": "0" * 40 + "1" * 20 + "0" * 20}
    apart = compare(*folders(tmp_path / "apart", ours, theirs)).benchmarks["Sums"]
    letters = "".join(chr(ord("a") + place // 10) for place in range(80))  # eight groups of ten alike
    whole = compare(*folders(tmp_path / "whole", ours, theirs, groups={"Sums": letters})).benchmarks["Sums"]
    assert apart.points == whole.points == 25
    # ten times fewer independent draws: the interval is about √10 times as wide
    assert 2.5 < (whole.high - whole.low) / (apart.high - apart.low) < 4


def test_the_same_seed_gives_the_same_interval_and_another_benchmark_does_not_change_it(tmp_path: Path) -> None:
    ours, theirs = {"Sums": "1101001"}, {"Sums": "0100101"}
    one = compare(*folders(tmp_path / "one", ours, theirs), seed=3)
    two = compare(*folders(tmp_path / "two", {"Angles": "01", **ours}, {"Angles": "11", **theirs}), seed=3)
    assert one.benchmarks["Sums"] == two.benchmarks["Sums"]


@settings(max_examples=25, deadline=None)
@given(st.text("01", min_size=1, max_size=30), st.data())
def test_swapping_the_models_turns_the_sign(
    tmp_path_factory: pytest.TempPathFactory, ours: str, data: st.DataObject
) -> None:
    theirs = data.draw(st.text("01", min_size=len(ours), max_size=len(ours)))
    pair = folders(tmp_path_factory.mktemp("pair"), {"Sums": ours}, {"Sums": theirs})
    there, back = (
        compare(*pair, resamples=200).benchmarks["Sums"],
        compare(*pair[::-1], resamples=200).benchmarks["Sums"],
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

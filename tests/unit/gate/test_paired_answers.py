"""Several samples of a question: one value, the mean over them, and how much of the spread they are."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from drift.evaluate.samples import Sample
from drift.evaluate.scores import BenchmarkScore
from drift.gate.answers import match
from drift.gate.statistics import compare_pairs
from drift.ground.errors import DataError


@dataclass(frozen=True)
class Numbered(Sample):
    """A sample of a question that was asked several times."""

    sample: int = 0
    read: str = "boxed"


def samples(marks: list[str], *, name: str = "Sums", form: tuple[str, ...] = ()) -> list[Sample]:
    """Of each question a string of its samples: `1` right, `0` wrong, `-` not read. `form`: parts of WeMath."""
    return [
        Numbered(
            benchmark=name,
            role="reasoning",
            index=str(place),
            group="problem" if form else str(place),
            correct=mark == "1",
            answer="5",
            gold="5",
            raw="5",
            thinking=None,
            finish_reason="stop",
            status={"1": "correct", "0": "incorrect", "-": "unparsed"}[mark],
            category="",
            part=form[place] if form else "",
            question="2 + 3?",
            error=None,
            sample=number,
            read="none" if mark == "-" else "boxed",
        )
        for place, one in enumerate(marks)
        for number, mark in enumerate(one)
    ]


def score(form: str = "plain") -> BenchmarkScore:
    return BenchmarkScore("reasoning", form, {}, 1, 0, 0, 0)


def test_a_question_is_worth_the_mean_over_its_samples() -> None:
    # 3/4 − 1/4, 0 − 0, 1 − 1/2, 1/2 − 1
    ours, theirs = samples(["1110", "0000", "1111", "1100"]), samples(["1000", "0000", "1100", "1111"])
    (answers,) = match(ours, theirs[::-1], {"Sums": score()}).values()
    pair = answers.pair()
    assert pair.differences["Sums"].tolist() == [0.5, 0, 0.5, -0.5]
    assert (pair.gained, pair.lost, pair.samples) == (2, 1, 4)
    # variances of 1110, 1000 with n − 1: 1/4 each, of 1100: 1/3; over 4 samples
    assert pair.noise["Sums"] == pytest.approx([2 / 16, 0, 1 / 12, 1 / 12])


def test_the_variance_falls_with_the_samples_as_far_as_they_are_noise() -> None:
    rng = np.random.default_rng(0)
    chance = [["".join("01"[int(bit)] for bit in rng.integers(0, 2, 4)) for _ in range(2000)] for _ in range(2)]
    (answers,) = match(*(samples(one) for one in chance), {"Sums": score()}).values()
    mean = compare_pairs({"Sums": answers.pair()}).reasoning
    assert mean is not None and mean.spread.noise is not None
    assert mean.spread.variance == pytest.approx(1e4 * 2 * 0.25 / 4 / 2000, rel=0.1)
    assert mean.spread.noise == pytest.approx(mean.spread.variance, rel=0.1)
    assert mean.samples == 4


def test_wemaths_problems_are_scored_in_each_sample_and_then_averaged() -> None:
    parts = ("2steps_1", "2steps_2", "2steps_multi")
    # ours: sample 0 all right: strict 1, loose 1; sample 1 one step and the whole: 0 and 1. Theirs: 1 and 1, twice
    ours, theirs = (
        samples(["11", "10", "11"], name="WeMath", form=parts),
        samples(["11"] * 3, name="WeMath", form=parts),
    )
    (answers,) = match(ours, theirs, {"WeMath": score("WeMath")}).values()
    differences = answers.pair().differences
    assert (differences["WeMath-strict"].tolist(), differences["WeMath-loose"].tolist()) == ([-0.5], [0])


def test_what_both_read_is_averaged_over_the_samples_that_were_read() -> None:
    # theirs: the first question's second sample, and all of the second question, were not read
    ours, theirs = samples(["10", "11", "01"]), samples(["1-", "--", "11"])
    (answers,) = match(ours, theirs, {"Sums": score()}).values()
    assert answers.read_differently
    common = answers.common_pair()
    assert common is not None
    assert common.differences["Sums"].tolist() == [-0.5, -0.5]  # 1/2 − 1, 1/2 − 1
    assert answers.theirs.reads == {"boxed": 3, "none": 3}


def test_a_problem_of_wemath_was_read_where_all_its_replies_were() -> None:
    parts = ("2steps_1", "2steps_2", "2steps_multi")
    ours, theirs = samples(["1"] * 3, name="WeMath", form=parts), samples(["-", "1", "1"], name="WeMath", form=parts)
    (answers,) = match(ours, theirs, {"WeMath": score("WeMath")}).values()
    assert answers.common_pair() is None


def test_questions_with_fewer_samples_than_others_are_an_error() -> None:
    ours = samples(["11", "10"])
    with pytest.raises(DataError, match="Sums: not every question has 2 samples"):
        match(ours[:-1], ours[:-1], {"Sums": score()})


def test_folders_of_earlier_versions_say_only_whether_there_was_an_answer() -> None:
    plain = [replace(one, read="") for one in samples(["1", "0"])]
    unread = [plain[0], replace(plain[1], status="unparsed")]
    (answers,) = match(plain, unread, {"Sums": score()}).values()
    assert (answers.ours.reads, answers.theirs.reads) == ({"bare": 2}, {"bare": 1, "none": 1})

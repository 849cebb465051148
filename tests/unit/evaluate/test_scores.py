"""Accuracies, their intervals, and the files they stand in."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from drift.config.evaluate import BenchmarkConfig
from drift.evaluate.columns import columns
from drift.evaluate.samples import JUDGE_FAILED, read_examples, read_samples
from drift.evaluate.scores import BenchmarkScore, Mean, read_scores, role_mean, score_benchmarks
from drift.ground.errors import DataError
from tests.score_folders import write_score_folder


def test_a_benchmark_has_percent_right_and_wilsons_interval(tmp_path: Path) -> None:
    scores = read_scores(write_score_folder(tmp_path / "vlm", {"Sums": "1" * 8 + "0" * 2}))
    # z = 1.959964: centre (0.8 + z²/20) / (1 + z²/10) = 0.716739,
    # half of the width z √(0.8·0.2/10 + z²/400) / (1 + z²/10) = 0.226577
    assert scores.columns()["Sums"].mean == 80
    assert scores.columns()["Sums"].low == pytest.approx(49.016, abs=1e-2)
    assert scores.columns()["Sums"].high == pytest.approx(94.332, abs=1e-2)


def test_the_mean_of_a_role_combines_its_benchmarks_intervals() -> None:
    scores = {
        "one": BenchmarkScore("reasoning", "plain", {"one": Mean(50, 47, 54)}, 100, 0, 0, 0),
        "two": BenchmarkScore("reasoning", "plain", {"two": Mean(90, 86, 93)}, 100, 0, 0, 0),
        "other": BenchmarkScore("perception", "plain", {"other": Mean(10, 9, 11)}, 100, 0, 0, 0),
    }
    mean = role_mean(scores, "reasoning")
    assert mean is not None
    # √(3² + 4²) / 2 = 2.5 below, √(4² + 3²) / 2 = 2.5 above
    assert (mean.mean, mean.low, mean.high) == (70, 67.5, 72.5)


def test_a_role_without_benchmarks_has_no_mean_and_one_benchmark_keeps_wilsons_interval(tmp_path: Path) -> None:
    scores = read_scores(write_score_folder(tmp_path / "vlm", {"Sums": "1111"}))
    assert scores.perception is None
    assert scores.reasoning is not None
    assert scores.reasoning.low == pytest.approx(scores.columns()["Sums"].low)
    assert scores.reasoning.low < 60  # four of four right is no certainty


def test_failed_questions_count_as_wrong_and_are_counted(tmp_path: Path) -> None:
    scores = read_scores(write_score_folder(tmp_path / "vlm", {"Sums": "1100"}, failed=1))
    assert scores.columns()["Sums"].mean == 50
    assert scores.count("failed") == 1
    assert scores.count("n") == 4


def test_a_folder_without_scores_or_of_another_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scores\.json: missing"):
        read_scores(tmp_path)
    with pytest.raises(DataError, match=r"samples\.parquet: not readable"):
        read_samples(tmp_path)
    (tmp_path / "scores.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(DataError, match="another schema"):
        read_scores(tmp_path)
    (tmp_path / "scores.json").write_text(json.dumps({"schema": 1, "label": "x"}))
    with pytest.raises(DataError, match="not a score table"):
        read_scores(tmp_path)


def test_samples_and_pictures_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = write_score_folder(tmp_path / "vlm", {"Sums": "10", "Words": "1"})
    samples = read_samples(folder)
    assert [(sample.benchmark, sample.index, sample.correct) for sample in samples] == [
        ("Sums", "0", True),
        ("Sums", "1", False),
        ("Words", "0", True),
    ]
    assert [example.index for example in read_examples(folder)] == ["0", "1"]


def test_a_folder_of_before_reading_and_samples_were_kept_still_reads(tmp_path: Path) -> None:
    folder = write_score_folder(tmp_path / "vlm", {"Sums": "10"})
    table = pq.read_table(folder / "samples.parquet").drop_columns(["read", "sample"])
    pq.write_table(table, folder / "samples.parquet")
    raw = json.loads((folder / "scores.json").read_text())
    for name in ("read", "samples", "overlaps"):
        del raw["benchmarks"]["Sums"][name]
    (folder / "scores.json").write_text(json.dumps(raw))
    assert [(sample.read, sample.sample) for sample in read_samples(folder)] == [("", 0), ("", 0)]
    score = read_scores(folder).benchmarks["Sums"]
    assert (score.read, score.samples, score.questions) == ({}, 1, 2)


def test_of_several_answers_a_questions_value_is_their_mean_and_pass_at_k_asks_for_one(tmp_path: Path) -> None:
    ones = read_samples(write_score_folder(tmp_path / "vlm", {"Sums": "110"}))
    twos = [dataclasses.replace(one, correct=one.index == "1", read="bare", sample=1) for one in ones]
    ones = [dataclasses.replace(one, read="boxed") for one in ones]
    # right: question 0 in the first run, question 1 in both, question 2 in none
    assert [unit.value for unit in columns("Sums", "plain", [*ones, *twos])["Sums"]] == [0.5, 1, 0]
    score = score_benchmarks([*ones, *twos], {"Sums": BenchmarkConfig(role="reasoning")}, 0.95)["Sums"]
    assert score.columns["Sums"].mean == 50
    assert score.metrics == pytest.approx({"avg@2": 50, "pass@2": 200 / 3})
    assert (score.n, score.questions, score.samples) == (6, 3, 2)
    assert score.read == {"bare": 3, "boxed": 3}


def test_the_agreement_is_over_what_the_judge_decided(tmp_path: Path) -> None:
    samples = read_samples(write_score_folder(tmp_path / "vlm", {"Sums": "1100"}))
    decided = [dataclasses.replace(one, rule="correct") for one in samples[:3]]
    failed = dataclasses.replace(samples[3], rule="incorrect", status="undetermined", error=JUDGE_FAILED)
    configs = {"Sums": BenchmarkConfig(role="reasoning")}
    judged = score_benchmarks([*decided, failed], configs, 0.95)["Sums"].judge
    assert judged == {"agreement": pytest.approx(200 / 3), "failed": 1, "random": 0}
    assert score_benchmarks([failed], configs, 0.95)["Sums"].judge == {"failed": 1, "random": 0}

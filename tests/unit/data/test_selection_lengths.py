"""Chains that are too long for the student are left out before `keep`: counted as its training counts."""

import logging

import pyarrow.parquet as pq
import pytest

from drift.config.data import CurateConfig, LengthConfig
from drift.config.train import TrainConfig
from drift.data.filters.lengths import Lengths
from drift.data.selection.curation import curate
from drift.data.tables import read_rows
from drift.ground.errors import CheckpointError, ConfigError
from drift.training.batches.collate import TrainingRows
from drift.weights.modeling import load_processor
from tests.pool_rows import ingested, png, pool_row
from tests.unit.data.test_curate import cot, generations, rows_of
from tests.world import VLM, training_set


@pytest.mark.parametrize("max_pixels", [None, 28 * 28 * 4])
def test_a_row_has_as_many_tokens_as_in_training(tmp_path, max_pixels):
    folder = training_set(tmp_path / "set", 12)
    trained = TrainingRows(folder, load_processor(VLM), TrainConfig(image_max_pixels=max_pixels)).lengths
    counted = Lengths(LengthConfig(max_tokens=1, processor=str(VLM), image_max_pixels=max_pixels))
    assert [counted.count(row) for row in pq.read_table(folder / "train.parquet").to_pylist()] == trained
    assert len(set(trained)) > 1


def long_and_short(tmp_path):
    """Three problems: with a short and a long chain, with a long one alone, with a short one alone."""
    problems = ingested(tmp_path, [pool_row(n, image=png(56, 56, shade=100 + n)) for n in range(3)])
    words = " ".join(["one"] * 40)
    texts = [[cot(1), cot(1, words)], [cot(2, words)], [cot(3)]]
    return problems, generations(tmp_path / "generations", problems, texts)


def test_what_is_too_long_is_left_out_before_keep_and_another_chain_of_the_problem_may_stay(tmp_path):
    problems, folder = long_and_short(tmp_path)
    everything = curate(CurateConfig(trace="longest"), problems, folder, tmp_path / "all")
    assert everything.kept == 3
    limit = max(TrainingRows(tmp_path / "all", load_processor(VLM), TrainConfig()).lengths) - 1
    config = CurateConfig(trace="longest", keep=2, length=LengthConfig(max_tokens=limit, processor=str(VLM)))
    report = curate(config, problems, folder, tmp_path / "out")
    assert {"stage": "length", "in": 4, "out": 2, "reasons": {"too_long": 2}} in report.funnel
    assert [stage["stage"] for stage in report.funnel][-4:] == ["length", "trace", "keep", "replay"]
    assert sorted(row["answer"] for row in rows_of(tmp_path / "out")) == ["1", "3"]
    rejects = [row for row in read_rows(tmp_path / "out" / "rejects.parquet") if row["stage"] == "length"]
    assert [row["sample"] for row in rejects] == [1, 0]
    assert max(TrainingRows(tmp_path / "out", load_processor(VLM), TrainConfig()).lengths) <= limit


def test_a_row_that_training_would_refuse_is_unusable_and_the_first_is_told(tmp_path, caplog):
    counted = Lengths(LengthConfig(max_tokens=100, processor=str(VLM)))
    said = [{"role": "user", "content": "a1"}, {"role": "assistant", "content": "b2 <|image_pad|>"}]
    with caplog.at_level(logging.WARNING):
        assert counted.reason({"id": "bad", "messages": said, "images": []}) == "unusable"
        assert counted.reason({"id": "worse", "messages": said, "images": []}) == "unusable"
    assert "row bad: '<|image_pad|>' in a text" in caplog.text and "worse" not in caplog.text


def test_a_processor_that_is_not_named_or_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"curate\.length\.processor: required, but not set"):
        Lengths(LengthConfig(max_tokens=10))
    with pytest.raises(CheckpointError, match="no such directory"):
        Lengths(LengthConfig(max_tokens=10, processor=str(tmp_path / "none")))

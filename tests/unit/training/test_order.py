"""The order of rows: a function of seed and epoch, padded little if asked, and fair where ranks do not divide them."""

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from drift.config.train import TrainConfig
from drift.training.batches.collate import IGNORE, AnswerCollator, TrainingRows
from drift.training.batches.order import Filled, RowOrder, WithoutFillings, places_to_fill
from drift.training.sft import train
from drift.weights.modeling import load_processor
from tests.ranks import IN_ONE_PIECE, QUICK, apart
from tests.world import VLM, training_set

UNEVEN = 11
"""Rows for two ranks, two a micro-batch: the last round lacks one."""


@given(rows=st.integers(1, 10_000), batch=st.integers(1, 64), ranks=st.integers(1, 64))
def test_the_last_round_is_filled_and_not_one_more(rows, batch, ranks):
    fill = places_to_fill(rows, batch, ranks)
    if ranks == 1:
        assert fill == 0
    else:
        assert (rows + fill) % (batch * ranks) == 0 and fill < batch * ranks


def test_the_random_order_is_that_of_accelerates_sampler_in_every_epoch():
    order, theirs = RowOrder([1] * 50, seed=7), SeedableRandomSampler(range(50), data_seed=7)
    for epoch in (0, 1, 5):
        order.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(order) == list(theirs)


def padding(places: list[int], lengths: list[int], batch: int) -> int:
    """Tokens of padding, when so many rows that follow one another make a batch."""
    batches = [[lengths[place] for place in places[i : i + batch]] for i in range(0, len(places), batch)]
    return sum(max(one) * len(one) - sum(one) for one in batches)


def test_rows_of_like_length_stand_together_each_once_and_otherwise_in_the_next_epoch():
    lengths = torch.randint(10, 1000, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    random, grouped = (RowOrder(lengths, seed=0, group=group) for group in (None, 8))
    assert sorted(grouped) == list(range(400))
    assert padding(list(grouped), lengths, 8) < 0.2 * padding(list(random), lengths, 8)
    first = list(grouped)
    assert first == list(grouped), "the same again"
    grouped.set_epoch(1)
    assert first != list(grouped)


def test_a_row_that_only_fills_its_place_teaches_nothing(tmp_path):
    processor = load_processor(VLM)
    rows = Filled(TrainingRows(training_set(tmp_path, 3), processor, TrainConfig()))
    batch = WithoutFillings(AnswerCollator(processor))([rows[2], rows[3]])
    assert len(rows) == 3 and rows[3]["id"] == rows[0]["id"]
    assert (batch["labels"][0] != IGNORE).any()
    assert (batch["labels"][1] == IGNORE).all() and (batch["attention_mask"][1] == 1).any()


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("uneven"), UNEVEN)


def run(data, out, **changes):
    return train(TrainConfig(**{**QUICK, "prior": None, **changes}), model=str(VLM), training_set=data, out=out)


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["random", "by_length"])
def test_rows_that_two_ranks_do_not_divide_give_the_weights_of_one_process(uneven, tmp_path, batches):
    one = run(uneven, tmp_path / "one", batches=batches, **IN_ONE_PIECE)
    two = run(uneven, tmp_path / "two", batches=batches)
    assert (one.steps, one.repeated) == (two.steps, two.repeated) == (2, 0)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("two", "one")]
    assert apart(*weights) <= 1e-5


@pytest.mark.slow
def test_rows_that_are_trained_on_twice_are_counted_and_said(uneven, tmp_path, capfd):
    report = run(uneven, tmp_path / "out", loss="micro_batch")
    assert report.repeated == 1 and report.metrics()["train/repeated"] == 1
    assert (
        "1 of 11 rows are trained on twice in every epoch, so that 2 ranks have equally many" in capfd.readouterr().err
    )


def test_a_training_by_length_goes_over_all_rows(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    data = training_set(tmp_path / "data", 16)
    alone = {"processes": 1, "per_device_batch_size": 4, "gradient_accumulation": 1, "batches": "by_length"}
    report = run(data, tmp_path / "out", **alone)
    assert report.steps == 4 and report.samples == 16 and "twice" not in caplog.text


def test_the_order_of_a_training_set_without_kinds_is_read_too(tmp_path):
    folder = training_set(tmp_path, 4)
    table = pq.read_table(folder / "train.parquet").drop_columns(["kind"])
    pq.write_table(pa.table(table), folder / "train.parquet")
    assert len(TrainingRows(folder, load_processor(VLM), TrainConfig())) == 4

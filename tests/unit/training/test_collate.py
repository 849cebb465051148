"""Batches for training: the loss is on the assistant's tokens, nothing is cut, nothing is left out in silence."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drift.config.train import TrainConfig
from drift.ground.errors import DataError
from drift.training.batches.collate import IGNORE, AnswerCollator, TrainingRows
from drift.weights.modeling import load_processor
from tests.world import VLM, training_set


@pytest.fixture(scope="module")
def processor():
    return load_processor(VLM)


def test_the_loss_is_on_the_assistants_answer_alone(tmp_path, processor):
    rows = TrainingRows(training_set(tmp_path, 8), processor, TrainConfig())
    batch = AnswerCollator(processor)([rows[i] for i in range(8)])
    assert batch["labels"].shape == batch["input_ids"].shape
    table = pq.read_table(tmp_path / "train.parquet").to_pylist()
    for labels, row in zip(batch["labels"], table, strict=True):
        learned = processor.tokenizer.decode(labels[labels != IGNORE], skip_special_tokens=True)
        assert "".join(learned.split()) == "".join(row["messages"][1]["content"].split())


def test_the_end_of_the_turn_is_learned_and_padding_is_not(tmp_path, processor):
    rows = TrainingRows(training_set(tmp_path, 8), processor, TrainConfig())
    batch = AnswerCollator(processor)([rows[i] for i in range(8)])
    end = processor.tokenizer.eos_token_id
    assert all((labels == end).sum() == 1 for labels in batch["labels"])
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORE).all()
    assert (batch["attention_mask"] == 0).any()


def test_samples_over_the_cutoff_are_left_out_whole_and_counted(tmp_path, processor, caplog):
    folder = training_set(tmp_path, 40)
    every = TrainingRows(folder, processor, TrainConfig())
    lengths = sorted(every.lengths)
    cutoff = lengths[5]
    kept = TrainingRows(folder, processor, TrainConfig(cutoff_tokens=cutoff, max_skipped=1.0))
    assert kept.skipped == sum(length > cutoff for length in lengths) > 0
    assert len(kept) == 40 - kept.skipped
    assert f"{kept.skipped} of 40 samples" in caplog.text


def test_too_many_samples_over_the_cutoff_are_an_error(tmp_path, processor):
    with pytest.raises(DataError, match=r"40 of 40 samples are longer than train.cutoff_tokens = 5 \(longest \d+\)"):
        TrainingRows(training_set(tmp_path, 40), processor, TrainConfig(cutoff_tokens=5))


def test_an_image_that_does_not_decode_names_its_row(tmp_path, processor):
    folder = training_set(tmp_path, 2)
    table = pq.read_table(folder / "train.parquet").to_pylist()
    table[1]["images"][0]["bytes"] = b"no image"
    pq.write_table(pa.Table.from_pylist(table), folder / "train.parquet")
    with pytest.raises(DataError, match=f"row {table[1]['id']}: the image does not decode"):
        TrainingRows(folder, processor, TrainConfig())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; `drift curate` writes it"),
        (b"not parquet", "not a training set"),
        (pa.table({"id": ["a"]}), "not a training set"),
    ],
)
def test_a_file_that_is_no_training_set_is_refused(tmp_path, processor, content, message):
    if isinstance(content, bytes):
        (tmp_path / "train.parquet").write_bytes(content)
    elif content is not None:
        pq.write_table(content, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message):
        TrainingRows(tmp_path, processor, TrainConfig())


def test_an_empty_training_set_is_refused(tmp_path, processor):
    folder = training_set(tmp_path, 1)
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(table.slice(0, 0), folder / "train.parquet")
    with pytest.raises(DataError, match="holds no rows"):
        TrainingRows(folder, processor, TrainConfig())

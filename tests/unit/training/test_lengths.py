"""Tokens of rows: counted once, by all processors, and kept; a row that cannot be used is named before that."""

import datasets
import pyarrow.parquet as pq
import pytest

from drift.config.train import TrainConfig
from drift.ground.errors import DataError
from drift.training.batches import lengths
from drift.training.batches.collate import TrainingRows
from drift.training.batches.lengths import counts_key, token_counts
from drift.weights.modeling import load_processor
from tests.world import VLM, training_set


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of one's own, which takes everything."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(lengths, "WORTH_SECONDS", -1.0)
    return tmp_path / "cache" / "drift"


def squared(place):
    return place * place


def never(place):
    raise AssertionError(f"row {place} is counted again")


def test_counts_are_kept_and_the_next_start_counts_nothing(cache):
    assert token_counts(5, squared, "key") == [0, 1, 4, 9, 16]
    assert token_counts(5, never, "key") == [0, 1, 4, 9, 16]
    assert [path.name for path in cache.iterdir()] == ["lengths-key.parquet"]


def test_what_is_kept_of_other_rows_or_cannot_be_read_is_counted_again(cache):
    token_counts(5, squared, "key")
    assert token_counts(3, squared, "key") == [0, 1, 4]
    (cache / "lengths-key.parquet").write_bytes(b"torn")
    assert token_counts(3, squared, "key") == [0, 1, 4]
    assert token_counts(3, never, "key") == [0, 1, 4]


def test_a_cache_that_takes_nothing_is_said_and_stops_nobody(cache, caplog):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert token_counts(3, squared, "key") == [0, 1, 4]
    assert "the rows' lengths cannot be kept" in caplog.text and "the next start counts again" in caplog.text


def test_short_counts_are_not_kept(cache, monkeypatch):
    monkeypatch.setattr(lengths, "WORTH_SECONDS", 60.0)
    token_counts(3, squared, "key")
    assert not cache.exists()


def test_many_processes_count_what_one_does(monkeypatch):
    monkeypatch.setattr(lengths, "ROWS_PER_PROCESS", 1)
    monkeypatch.setattr(lengths, "_processors", lambda: 2)
    assert token_counts(100, lambda place: place + 1, "key") == list(range(1, 101))


def test_the_ranks_shares_come_together_in_the_rows_order():
    assert lengths._interleaved([[0, 3, 6], [1, 4], [2, 5]], 7) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("processors", [1, 2])
def test_the_first_row_that_cannot_be_used_is_told_whole_and_the_others_are_named(monkeypatch, processors):
    monkeypatch.setattr(lengths, "ROWS_PER_PROCESS", 1)
    monkeypatch.setattr(lengths, "_processors", lambda: processors)

    def measure(place):
        if place % 3 == 0:
            raise DataError(f"row {place}: no good")
        return place

    with pytest.raises(DataError) as caught:
        token_counts(8, measure, "key")
    assert str(caught.value) == "row 0: no good; 2 more rows cannot be used (3, 6)"


def test_the_key_changes_with_all_that_the_counts_follow_from(tmp_path):
    folder, other = training_set(tmp_path / "one", 4), training_set(tmp_path / "two", 4, seed=1)
    keys = [
        counts_key(folder, load_processor(VLM), 262144),
        counts_key(other, load_processor(VLM), 262144),
        counts_key(folder, load_processor(VLM), 1024),
    ]
    thinking = load_processor(VLM)
    thinking.tokenizer.add_tokens(["<wonder>"])
    keys.append(counts_key(folder, thinking, 262144))
    templated = load_processor(VLM)
    templated.chat_template += " "
    keys.append(counts_key(folder, templated, 262144))
    for contents in (b"a picture", b"another one"):
        (tmp_path / "a.png").write_bytes(contents)
        keys.append(counts_key(folder, load_processor(VLM), 262144, [tmp_path / "a.png"]))
    assert len(set(keys)) == len(keys)
    assert counts_key(folder, load_processor(VLM), 262144) == keys[0]


def test_a_second_start_takes_the_rows_lengths_from_the_first(tmp_path, monkeypatch):
    folder = training_set(tmp_path / "data", 8)
    first = TrainingRows(folder, load_processor(VLM), TrainConfig())
    monkeypatch.setattr(TrainingRows, "_length", lambda self, place: never(place))
    second = TrainingRows(folder, load_processor(VLM), TrainConfig())
    assert second.lengths == first.lengths
    assert len(pq.read_table(folder / "train.parquet")) == len(second)

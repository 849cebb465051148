"""Micro-batches as one sequence: the same training without padding, and refused where rows would see each other."""

from contextlib import nullcontext

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from drift.config.train import TrainConfig
from drift.ground.errors import ConfigError
from drift.training import fit
from drift.training.batches import packing
from drift.training.batches.collate import IGNORE, AnswerCollator, TrainingRows
from drift.training.batches.packing import Packed
from drift.training.sft import train
from drift.weights.modeling import load_processor, load_vlm
from tests.ranks import IN_ONE_PIECE, QUICK, apart
from tests.world import VLM, training_set

ALONE = {**QUICK, **IN_ONE_PIECE, "prior": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("data"), 24)


def run(data, out, **changes):
    return train(TrainConfig(**{**ALONE, **changes}), model=str(VLM), training_set=data, out=out)


def test_a_packed_batch_has_every_token_once_and_asks_no_row_for_the_nexts_first(data):
    processor, model = load_processor(VLM), load_vlm(VLM)
    rows, collate = TrainingRows(data, processor, TrainConfig()), AnswerCollator(processor)
    chosen = [rows[place] for place in range(4)]
    padded, packed = collate(chosen), Packed(collate, model)(chosen)
    own = padded["attention_mask"].bool()
    assert packed["input_ids"].shape == (1, int(own.sum())) and "attention_mask" not in packed
    assert packed["position_ids"].shape == (4, 1, int(own.sum()))
    assert int((packed["position_ids"][0] == 0).sum()) == 4
    assert (packed["labels"] != IGNORE).sum() == (padded["labels"] != IGNORE).sum()
    with torch.no_grad():
        apart_, together = model(**padded).logits[own], model(**packed).logits[0]
    assert torch.allclose(apart_, together, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_training_goes_where_a_padded_one_goes(data, tmp_path, attention):
    run(data, tmp_path / "padded", attention=attention)
    run(data, tmp_path / "packed", attention=attention, packing=True)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("packed", "padded")]
    assert apart(*weights) <= 1e-5


def test_a_packed_training_is_looked_at_row_by_row(data, tmp_path):
    held_out = {"share": 0.25, "every": 1}
    padded, packed = (
        run(data, tmp_path / str(packing), held_out=held_out, packing=packing) for packing in (False, True)
    )
    for here, there in zip(packed.held_out, padded.held_out, strict=True):
        assert here["held_out_loss"] == pytest.approx(there["held_out_loss"], rel=1e-5)
        assert here["perception_right"] == there["perception_right"]


def test_a_model_whose_packed_rows_see_each_other_is_refused(data, tmp_path, monkeypatch):
    def seeing(self, rows):
        return {name: value for name, value in packed(self, rows).items() if name != "position_ids"}

    packed = packing.Packed.__call__
    monkeypatch.setattr(packing.Packed, "__call__", seeing)
    with pytest.raises(ConfigError, match=r"train\.packing: this model lets packed rows see each other; set it to"):
        run(data, tmp_path / "out", packing=True)


@pytest.mark.parametrize(("without", "refused"), [(0, False), (1, True), (4, False)])
def test_packing_is_refused_where_a_batch_without_an_image_would_get_one(tmp_path, monkeypatch, without, refused):
    rows = pq.read_table(training_set(tmp_path, 4) / "train.parquet").to_pylist()
    pq.write_table(
        pa.Table.from_pylist([{**row, "images": row["images"][: place >= without]} for place, row in enumerate(rows)]),
        tmp_path / "train.parquet",
    )
    config = TrainConfig(packing=True)
    read = TrainingRows(tmp_path, load_processor(VLM), config)
    monkeypatch.setattr(fit, "_partitions", lambda config: True)
    with pytest.raises(ConfigError, match=r"train\.packing: with sharded weights") if refused else nullcontext():
        assert fit._stands_in(config, read) == (without < 4)

"""Rows with images and rows without on several ranks: where weights are sharded too, no rank waits for another."""

from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from drift.config.train import TrainConfig
from drift.training.sft import train
from tests.forked import begin
from tests.ranks import IN_ONE_PIECE, QUICK, apart, write_inputs
from tests.world import VLM

SECONDS = 240
"""In which a training of seconds must have ended."""
ONE_ROW = {"per_device_batch_size": 1, "gradient_accumulation": 4}
"""The same global batch of 8 on two ranks, so that a micro-batch has an image or has none."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The inputs of the ranks' tests, every third row without its image."""
    folder = write_inputs(tmp_path_factory.mktemp("world"))
    table = folder / "data" / "train.parquet"
    rows = pq.read_table(table).to_pylist()
    mixed = [{**row, "images": row["images"] if place % 3 else []} for place, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(mixed), table)
    return folder


def training(world, out, **changes):
    config = TrainConfig(**{**QUICK, **changes})
    return partial(train, config, model=str(VLM), training_set=world / "data", delta=world / "delta", out=out)


@pytest.fixture(scope="module")
def alone(world):
    """The weights of one process."""
    training(world, world / "alone", **IN_ONE_PIECE)()
    return load_file(world / "alone" / "model.safetensors")


def test_one_row_at_a_time_gives_the_weights_of_all_at_once(world, alone, tmp_path):
    training(world, tmp_path / "out", **{**ONE_ROW, "processes": 1, "gradient_accumulation": 8})()
    assert apart(load_file(tmp_path / "out" / "model.safetensors"), alone) <= 1e-5


def ended(world, out, **changes):
    """The weights of two ranks, which must not wait for each other."""
    ranks = begin(training(world, out, **ONE_ROW, **changes))
    ranks.join(SECONDS)
    if waiting := ranks.exitcode is None:
        ranks.terminate()
    assert not waiting, "the ranks wait for each other"
    assert ranks.exitcode == 0
    return load_file(out / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["zero3", "fsdp2"])
def test_ranks_with_and_without_an_image_end_with_the_weights_of_one_process(world, alone, tmp_path, sharding):
    how = {"fsdp": True} if sharding == "fsdp2" else {"deepspeed": str(world / "zero3.json")}
    assert apart(ended(world, tmp_path / "out", **how), alone) <= 1e-5


@pytest.mark.slow
def test_they_do_where_the_vision_tower_is_trained_too(world, tmp_path):
    training(world, tmp_path / "alone", **IN_ONE_PIECE, freeze_vision=False)()
    zero3 = {"deepspeed": str(world / "zero3.json"), "freeze_vision": False}
    alone = load_file(tmp_path / "alone" / "model.safetensors")
    assert apart(ended(world, tmp_path / "out", **zero3), alone) <= 1e-5

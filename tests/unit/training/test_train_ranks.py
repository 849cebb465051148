"""`drift train` on two ranks: DDP, ZeRO-2 and ZeRO-3, killed and resumed; a rank's error is said on one line."""

import json
import re
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from drift.cli.app import main
from drift.config.train import TrainConfig
from drift.ground.errors import DataError
from drift.training.sft import train
from drift.weights.modeling import load_vlm
from tests.forked import begin
from tests.ranks import IN_ONE_PIECE, QUICK, apart, write_inputs
from tests.world import VLM


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A training set, a Δ, and the two ZeRO configurations that ship, but with every parameter partitioned."""
    return write_inputs(tmp_path_factory.mktemp("world"))


def run(world, out, **changes):
    config = TrainConfig(**{**QUICK, **changes})
    delta = world / "delta" if config.prior else None
    return train(config, model=str(VLM), training_set=world / "data", delta=delta, out=out)


@pytest.fixture(scope="module")
def alone(world):
    """The same global batch of 8 in one process and one piece."""
    run(world, world / "alone", **IN_ONE_PIECE)
    return load_file(world / "alone" / "model.safetensors")


@pytest.mark.parametrize("settings", [{"processes": 1, "gradient_accumulation": 4}, {}], ids=["one process", "DDP"])
@pytest.mark.slow
def test_the_weights_do_not_depend_on_how_the_batch_is_cut(world, alone, tmp_path, settings):
    run(world, tmp_path / "out", **settings)
    assert apart(load_file(tmp_path / "out" / "model.safetensors"), alone) <= 1e-5


@pytest.mark.slow
def test_a_training_whose_ranks_are_killed_goes_on_to_the_same_bytes(world, alone, tmp_path):
    settings = {**QUICK, "deepspeed": str(world / "zero3.json"), "save_steps": 2}
    run(world, tmp_path / "whole", **settings)
    killed = tmp_path / "killed"
    code, errors = kill_ranks_behind_a_checkpoint(world, killed, settings)
    assert code == 2 and "Traceback" not in errors
    assert re.search(r"^drift: rank \d ended with exit code -9: Signal 9 \(SIGKILL\)", errors, re.MULTILINE)
    assert not killed.exists()
    report = run(world, killed, **settings)
    assert report.steps == 4 and len(report.cosines) == 4
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert apart(load_file(killed / "model.safetensors"), alone) <= 1e-5
    assert load_vlm(killed).config.model_type == "qwen2_5_vl"


def kill_ranks_behind_a_checkpoint(world, out, settings):
    """SIGKILL both ranks of a training as soon as its first checkpoint is complete: exit code and stderr."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    paths = ["--model", str(VLM), "--data", str(world / "data"), "--delta", str(world / "delta"), "--out", str(out)]
    errors = out.with_name("errors.txt")
    launcher, ranks = started_to_a_checkpoint([*paths, *overrides], out, errors)
    for rank in ranks:
        rank.kill()
    launcher.join(120)
    return launcher.exitcode, errors.read_text()


def started_to_a_checkpoint(arguments, out, errors):
    """`drift train` on two ranks whose first checkpoint is complete: the launcher and its ranks."""
    launcher = begin(main, ["train", *arguments], err=errors)
    complete = out.with_name(out.name + ".partial") / "checkpoints" / "checkpoint-2" / "complete"
    while launcher.is_alive() and not complete.exists():
        time.sleep(0.01)
    ranks = [child for child in psutil.Process(launcher.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    return launcher, ranks


@pytest.mark.slow
def test_ranks_end_with_a_killed_launcher_and_the_same_command_goes_on_at_once(world, tmp_path):
    out, settings = tmp_path / "out", {**QUICK, "prior": None, "epochs": 2, "save_steps": 2}
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    arguments = ["--model", str(VLM), "--data", str(world / "data"), "--out", str(out), *overrides]
    launcher, ranks = started_to_a_checkpoint(arguments, out, tmp_path / "errors.txt")
    launcher.kill()
    launcher.join()
    gone, alive = psutil.wait_procs(ranks, timeout=10)
    assert len(gone) == 2 and not alive
    assert run(world, out, **settings).steps == 8


@pytest.mark.slow
def test_an_image_that_does_not_decode_is_named_by_the_launcher_on_one_line(world, tmp_path):
    rows = pq.read_table(world / "data" / "train.parquet").to_pylist()
    rows[5]["images"][0]["bytes"] = b"no image"
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "train.parquet")
    with pytest.raises(DataError, match=f"row {rows[5]['id']}: the image does not decode") as caught:
        train(
            TrainConfig(**{**QUICK, "prior": None}),
            model=str(VLM),
            training_set=tmp_path / "data",
            out=tmp_path / "out",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_checkpoint_of_another_number_of_ranks_is_refused(world, tmp_path):
    settings = {"save_steps": 2, "cutoff_tokens": 5}
    with pytest.raises(DataError, match=r"longer than train\.cutoff_tokens = 5"):
        run(world, tmp_path / "out", processes=1, **settings)
    (tmp_path / "out.partial" / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(DataError, match=r"another training \(train.processes: 1 there, 2 here\); remove it"):
        run(world, tmp_path / "out", processes=2, **settings)

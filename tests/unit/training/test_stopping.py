"""SIGTERM to a training: it saves and ends within its grace, on one rank and on two, and goes on to the same bytes."""

import json
import os
import re
import signal
import time
from functools import partial

import psutil
import pytest
from torch.utils.data import DataLoader

from drift.cli.app import main
from drift.config.train import TrainConfig
from drift.ground.errors import TERMINATED
from drift.training.safety.checkpoints import fault_of, saved
from drift.training.safety.stopping import Grace, Spared
from drift.training.sft import train
from tests.forked import begin
from tests.ranks import QUICK as ON_RANKS
from tests.ranks import write_inputs
from tests.unit.training.test_train import QUICK, weights
from tests.world import VLM


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("world"))


def step_of(checkpoint):
    return int(checkpoint.name.rpartition("-")[2])


def test_a_training_that_is_asked_to_end_saves_its_step_and_goes_on_from_it(world, tmp_path):
    settings = {**QUICK, "epochs": 6, "save_steps": 4}
    guided = partial(train, TrainConfig(**settings), model=str(VLM), training_set=world / "data")
    guided(out=tmp_path / "whole")
    process = begin(partial(guided, out=tmp_path / "out"), err=tmp_path / "err.txt")
    asked = terminate_behind(process, tmp_path / "out.partial", 4)
    process.join(120)
    assert process.exitcode == TERMINATED and time.monotonic() - asked < settings.get("grace_seconds", 25)
    last = saved(tmp_path / "out.partial")[-1]
    assert step_of(last) > 4 and fault_of(last) is None
    assert f"{last.name} is whole: the same command goes on from it" in (tmp_path / "err.txt").read_text()
    began = time.time()
    report = guided(out=tmp_path / "out")
    assert sum(at > began for at in report.times) == 24 - step_of(last)
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def terminate_behind(process, folder, step):
    """SIGTERM once the checkpoint of a step is whole; when."""
    while process.is_alive() and not (folder / "checkpoints" / f"checkpoint-{step}" / "complete").exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    return time.monotonic()


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["one rank", "the launcher"])
def test_two_ranks_save_the_same_step_whichever_is_asked(world, tmp_path, whom):
    settings = {**ON_RANKS, "epochs": 4, "save_steps": 4}
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    paths = ["--model", str(VLM), "--data", str(world / "data"), "--delta", str(world / "delta")]
    out, errors = tmp_path / "out", tmp_path / "errors.txt"
    launcher = begin(main, ["train", *paths, "--out", str(out), *overrides], err=errors)
    complete = tmp_path / "out.partial" / "checkpoints" / "checkpoint-4" / "complete"
    while launcher.is_alive() and not complete.exists():
        time.sleep(0.005)
    ranks = [one for one in psutil.Process(launcher.pid).children() if "spawn_main" in " ".join(one.cmdline())]
    (ranks[1] if whom == "one rank" else psutil.Process(launcher.pid)).terminate()
    launcher.join(120)
    assert launcher.exitcode == TERMINATED, errors.read_text()
    assert "Traceback" not in errors.read_text() and not any(rank.is_running() for rank in ranks)
    last = saved(tmp_path / "out.partial")[-1]
    assert step_of(last) > 4 and fault_of(last) is None
    assert len(re.findall(r"is whole: the same command goes on", errors.read_text())) == 1
    config = TrainConfig(**settings)
    inputs = {"model": str(VLM), "training_set": world / "data", "delta": world / "delta"}
    before = signal.getsignal(signal.SIGTERM)
    train(config, **inputs, out=out)
    train(config, **inputs, out=tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_of_the_loader_hands_over_its_batches_though_the_whole_group_was_asked_to_end():
    loader = DataLoader(range(40), batch_size=2, num_workers=1, worker_init_fn=Spared(), timeout=60)
    with Grace(60) as grace:
        batches = iter(loader)
        seen = [next(batches).tolist()]
        for process in (*(worker.pid for worker in batches._workers), os.getpid()):
            os.kill(process, signal.SIGTERM)
        seen += [batch.tolist() for batch in batches]
        assert grace.agreed() and [row for batch in seen for row in batch] == list(range(40))


def hang(seconds, begun):
    """A step that does not end."""
    with Grace(seconds):
        begun.touch()
        while True:
            time.sleep(0.05)


def test_what_takes_longer_than_its_grace_ends_without_a_checkpoint(tmp_path):
    process = begin(hang, 0.5, tmp_path / "begun", err=tmp_path / "err.txt")
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    began = time.monotonic()
    for _ in range(2):  # an agent passes on what the group was sent already
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.1)
        assert process.is_alive()
    process.join(10)
    assert process.exitcode == TERMINATED and 0.4 < time.monotonic() - began < 5
    assert "train.grace_seconds = 0.5 are over" in (tmp_path / "err.txt").read_text()


def test_past_the_grace_the_handler_before_has_its_way():
    def end(number, frame):
        raise SystemExit(7)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit, match="7"), Grace(0.2) as grace:
            signal.raise_signal(signal.SIGTERM)
            assert grace.agreed()
            time.sleep(5)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)

"""Checkpoints that can be trusted: damaged ones are set aside, a full disk is one line, and what it does not touch."""

import hashlib
import json
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drift.config.train import TrainConfig
from drift.ground import patience
from drift.ground.errors import DataError, DiskError
from drift.training.safety import room
from drift.training.safety.checkpoints import fault_of, mark, newest_whole, saved
from drift.training.sft import train
from tests.forked import begin
from tests.small_disk import small_disk
from tests.unit.training.test_train import QUICK, weights
from tests.world import VLM, training_set

SETTINGS = {**QUICK, "epochs": 4, "save_steps": 4}
STEPS = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training_set(tmp_path_factory.mktemp("data"), 32)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The bytes of a training that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(TrainConfig(**SETTINGS), model=str(VLM), training_set=data, out=out)
    return weights(out)


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory):
    """What a training that was killed behind its second checkpoint left."""
    out = tmp_path_factory.mktemp("killed") / "out"
    partial_folder = out.with_name("out.partial")
    process = begin(partial(train, TrainConfig(**SETTINGS), model=str(VLM), training_set=data, out=out))
    while process.is_alive() and not (partial_folder / "checkpoints" / "checkpoint-8" / "complete").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    for later in saved(partial_folder)[2:]:  # it may have come further before it died
        shutil.rmtree(later)
    assert [path.name for path in saved(partial_folder)] == ["checkpoint-4", "checkpoint-8"]
    return partial_folder


def resumed(killed, data, out, **changes):
    """A training that goes on from a copy of what the killed one left; the bytes of its weights."""
    if not out.with_name(out.name + ".partial").exists():
        shutil.copytree(killed, out.with_name(out.name + ".partial"))
    train(TrainConfig(**{**SETTINGS, **changes}), model=str(VLM), training_set=data, out=out)
    return weights(out)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Another byte in the middle, the same size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


FAULTS = [
    ("optimizer.pt", Path.unlink, "lacks optimizer.pt and was set aside as damaged-checkpoint-8"),
    ("scheduler.pt", Path.unlink, "lacks scheduler.pt and was set aside"),
    ("rng_state.pth", Path.unlink, "lacks rng_state.pth and was set aside"),
    ("optimizer.pt", empty, "has 0 bytes of optimizer.pt instead of"),
    ("trainer_state.json", cut, "of trainer_state.json instead of"),
    ("model.safetensors", flip, "has other contents of model.safetensors than were saved and was set aside"),
    ("complete", Path.unlink, "checkpoint-8 was not finished and was removed"),
    ("complete", empty, "has a damaged marker 'complete' and was set aside"),
]


@pytest.mark.parametrize(("name", "damage", "said"), FAULTS, ids=[f"{name} {do.__name__}" for name, do, _ in FAULTS])
def test_a_damaged_newest_checkpoint_is_put_away_with_a_line_and_the_one_before_is_taken(
    killed, tmp_path, caplog, name, damage, said
):
    folder = shutil.copytree(killed, tmp_path / "out.partial")
    damage(folder / "checkpoints" / "checkpoint-8" / name)
    assert newest_whole(folder) == folder / "checkpoints" / "checkpoint-4"
    assert said in caplog.messages[0] and caplog.messages[1:] == [
        "the training goes on from checkpoint-4, if it is whole"
    ]


def test_a_training_whose_newest_checkpoint_lost_its_optimizer_ends_in_the_same_bytes(
    killed, data, whole, tmp_path, caplog
):
    shutil.copytree(killed, tmp_path / "out.partial")
    (tmp_path / "out.partial" / "checkpoints" / "checkpoint-8" / "optimizer.pt").unlink()
    assert resumed(killed, data, tmp_path / "out") == whole
    assert "lacks optimizer.pt and was set aside" in caplog.text
    assert not (tmp_path / "out" / "checkpoints").exists() and not (tmp_path / "out" / "resume.json").exists()


def test_where_no_checkpoint_is_whole_the_training_begins_anew_and_says_so(killed, tmp_path, caplog):
    folder = shutil.copytree(killed, tmp_path / "out.partial")
    for step in (4, 8):
        (folder / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt").unlink()
    assert newest_whole(folder) is None
    assert "the training goes on at the first step: there is no other" in caplog.messages


@pytest.mark.parametrize("save_steps", [None, 10])
def test_keys_without_consequence_for_the_weights_may_change(killed, data, whole, tmp_path, save_steps):
    others = {"logging_steps": 3, "save_steps": save_steps, "grace_seconds": 5.0}
    assert resumed(killed, data, tmp_path / "out", **others) == whole


def test_a_training_of_other_settings_is_refused_by_name_and_the_checkpoints_stay(killed, data, tmp_path):
    with pytest.raises(DataError, match=r"another training \(train\.seed: 0 there, 7 here\); remove it or choose"):
        resumed(killed, data, tmp_path / "out", seed=7, save_steps=None)
    assert len(saved(tmp_path / "out.partial")) == 2


def test_what_another_training_left_without_a_checkpoint_is_no_obstacle(data, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "resume.json").write_text('{"train.epochs": 99.0}')
    (tmp_path / "out.partial" / "model-00001-of-00002.safetensors").write_text("of another model")
    train(TrainConfig(**QUICK), model=str(VLM), training_set=data, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("model-*"))


def test_a_training_goes_on_in_another_place_from_the_path_of_its_checkpoints(data, whole, tmp_path):
    """As a retried step of a run does, in a new process, container or pod."""
    path = tmp_path / "kept"
    config = TrainConfig(**SETTINGS, checkpoints=str(path))
    lost = begin(partial(train, config, model=str(VLM), training_set=data, out=tmp_path / "first" / "out"))
    complete = "trainings/*/model/checkpoints/checkpoint-8/complete"
    while lost.is_alive() and not list(path.glob(complete)):
        time.sleep(0.01)
    lost.kill()
    lost.join()
    assert list(path.glob(complete))
    shutil.rmtree(tmp_path / "first")
    began = time.time()
    report = train(config, model=str(VLM), training_set=data, out=tmp_path / "second" / "out")
    assert weights(tmp_path / "second" / "out") == whole
    assert sum(at > began for at in report.times) < STEPS - 7, "what was trained is not trained again"
    assert not list((path / "trainings").glob("*/"))


def test_checkpoints_on_another_number_of_ranks_are_refused_by_name_and_stay(killed, data, tmp_path):
    place = tmp_path / "kept" / "trainings" / "0123" / "model"
    shutil.copytree(killed, place)
    that = json.loads((place / "resume.json").read_text())
    (place / "resume.json").write_text(json.dumps(that | {"train.processes": 8}))
    config = TrainConfig(**SETTINGS, checkpoints=str(tmp_path / "kept"))
    with pytest.raises(DataError, match=f"{place}: holds .* of this training on 8 ranks, and here are 1; start"):
        train(config, model=str(VLM), training_set=data, out=tmp_path / "out")
    assert len(saved(place)) == 2


# ------------------------------------------------------------------------------------------------ the marker alone


def a_checkpoint(folder, step):
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    (checkpoint / "global_step4").mkdir(parents=True)
    (checkpoint / "global_step4" / "rank_0.pt").write_bytes(b"optimizer")
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    mark(checkpoint)
    return checkpoint


def test_a_marker_names_every_file_with_its_size_and_hash(tmp_path):
    checkpoint = a_checkpoint(tmp_path, 4)
    files = json.loads((checkpoint / "complete").read_text())["files"]
    assert files.keys() == {"global_step4/rank_0.pt", "model.safetensors"}
    assert files["model.safetensors"] == {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert fault_of(checkpoint) is None


def test_the_newest_is_that_of_the_last_step_and_not_of_the_last_name(tmp_path):
    every = [a_checkpoint(tmp_path, step) for step in (8, 16, 100)]
    assert newest_whole(tmp_path) == every[2]
    (every[2] / "global_step4" / "rank_0.pt").unlink()
    assert newest_whole(tmp_path) == every[1]
    assert (tmp_path / "checkpoints" / "damaged-checkpoint-100").is_dir()
    assert newest_whole(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("marker", ["", "[]", '{"files": []}', '{"files": {"model.safetensors": 7}}', "\0"])
def test_a_marker_that_is_none_is_no_traceback(tmp_path, marker):
    checkpoint = a_checkpoint(tmp_path, 4)
    (checkpoint / "complete").write_text(marker)
    assert fault_of(checkpoint) == "has a damaged marker 'complete'"


# ------------------------------------------------------------------------------------------------ a full disk


def test_a_disk_without_room_for_what_a_training_writes_is_said_before_the_first_step(data, tmp_path):
    with (
        small_disk(tmp_path, "3m"),
        pytest.raises(DiskError, match=r"MB are free.*3 checkpoints at once") as said,
    ):
        train(TrainConfig(**SETTINGS), model=str(VLM), training_set=data, out=tmp_path / "out")
    assert "\n" not in str(said.value)


def test_a_disk_that_fills_up_is_one_line_and_the_same_command_goes_on(data, whole, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    with small_disk(place, "12m"):
        arguments = {"model": str(VLM), "training_set": data, "out": place / "out"}
        process = threading.Thread(target=fill_behind, args=(place, "checkpoint-4"))
        process.start()
        with pytest.raises(DiskError, match=r"checkpoint-\d+: the disk is full; make room, and the same command"):
            train(TrainConfig(**SETTINGS), **arguments)
        process.join()
        assert saved(place / "out.partial")
        (place / "filler").unlink()
        train(TrainConfig(**SETTINGS), **arguments)
        assert weights(place / "out") == whole


def fill_behind(place, checkpoint):
    """Leave no room once a checkpoint is whole."""
    while not (place / "out.partial" / "checkpoints" / checkpoint / "complete").exists():
        time.sleep(0.002)
    with (place / "filler").open("wb") as file:
        try:
            while True:
                file.write(bytes(65536))
                file.flush()
        except OSError:
            pass


def test_a_trained_model_waits_for_room(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(patience, "FIRST_WAIT_SECONDS", 0.1)
    with small_disk(tmp_path, "2m"):
        (tmp_path / "filler").write_bytes(bytes(1_500_000))
        threading.Thread(target=make_room_once_said, args=(tmp_path / "filler", caplog), daemon=True).start()
        room.when_there_is_room(partial(write_model, tmp_path), tmp_path)
        assert (tmp_path / "model.safetensors").stat().st_size > 1_000_000
    assert "saving the trained model failed" in caplog.text and "the disk is full" in caplog.text


def make_room_once_said(filler, caplog):
    """Free the disk when its being full has been logged."""
    while "the disk is full" not in caplog.text:
        time.sleep(0.01)
    filler.unlink()


def test_a_trained_model_that_finds_no_room_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "ROOM_SECONDS", 0.0)
    with small_disk(tmp_path, "512k"):
        with pytest.raises(DiskError, match="the disk is full, and nobody made room; make some, and the same") as said:
            room.when_there_is_room(partial(write_model, tmp_path), tmp_path)
        assert not list(tmp_path.iterdir()), "half a model takes no room either"
    assert "\n" not in str(said.value) and not patience.is_transient(said.value)


def test_another_failure_of_writing_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(Exception, match="No such file"):
        room.when_there_is_room(partial(write_model, tmp_path / "nowhere"), tmp_path)


def write_model(folder):
    save_file({"weight": torch.zeros(300_000)}, folder / "model.safetensors")


def test_what_a_checkpoint_takes():
    assert room.checkpoint_bytes(10, 10) == 10 * 4 + 10 * 8  # float32, two moments
    assert room.checkpoint_bytes(10, 6, masters_elsewhere=True) == 10 * (2 + 2) + 6 * (4 + 8)

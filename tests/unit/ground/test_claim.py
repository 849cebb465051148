"""Work on a path that outlives its process: addressed, held by one, moved out when it is whole, kept when it is not."""

import shutil
import threading
import time

import pytest

from drift.ground.claim import address, on_claim, replies_folder, work_folder
from drift.ground.errors import DataError

THIS = {"train.epochs": 1, "model": "0123"}


def content(tmp_path, **changes):
    return tmp_path / "claim" / "trainings" / address({**THIS, **changes}) / "model"


def test_an_address_is_of_all_that_decides_the_result_in_any_order():
    assert address(THIS) == address({"model": "0123", "train.epochs": 1}) != address({**THIS, "model": "0124"})
    assert replies_folder(None, "generations", THIS) is None


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "claim").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"), on_claim(content(tmp_path), tmp_path / "out"):
        pass


def test_work_is_moved_to_its_place_without_what_only_serves_to_go_on(tmp_path):
    with on_claim(content(tmp_path), tmp_path / "out", leave=["checkpoints", "part-*.jsonl"]) as folder:
        (folder / "model.txt").write_text("weights")
        (folder / "part-0.jsonl").write_text("reply")
        (folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
        assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.txt"]
    assert not list((tmp_path / "claim" / "trainings").glob("*/"))


def test_without_a_claim_work_goes_on_beside_the_output(tmp_path):
    with pytest.raises(RuntimeError), work_folder(None, tmp_path / "out") as folder:
        (folder / "part-0.jsonl").write_text("reply")
        raise RuntimeError
    with work_folder(None, tmp_path / "out", leave=["part-*.jsonl"]) as folder:
        assert (folder / "part-0.jsonl").read_text() == "reply"
        (folder / "scores.json").write_text("{}")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.json"]
    assert not (tmp_path / "out.partial").exists()


def test_work_that_was_begun_beside_the_output_is_not_left_behind_in_silence(tmp_path):
    with pytest.raises(RuntimeError), work_folder(None, tmp_path / "out") as folder:
        (folder / "part-0.jsonl").write_text("reply")
        raise RuntimeError
    with (
        pytest.raises(DataError, match=r"out\.partial: holds work .*; move it to .*/model, or remove it"),
        work_folder(content(tmp_path), tmp_path / "out"),
    ):
        pass
    content(tmp_path).parent.mkdir(parents=True)
    (tmp_path / "out.partial").rename(content(tmp_path))
    with work_folder(content(tmp_path), tmp_path / "out") as folder:
        assert (folder / "part-0.jsonl").read_text() == "reply"


def test_what_fails_stays_for_whoever_does_the_same_and_for_nobody_else(tmp_path):
    with pytest.raises(RuntimeError), on_claim(content(tmp_path), tmp_path / "out") as folder:
        (folder / "checkpoint").write_text("half")
        raise RuntimeError
    assert not (tmp_path / "out").exists()
    with on_claim(content(tmp_path), tmp_path / "elsewhere") as folder:
        assert (folder / "checkpoint").exists()
    with on_claim(content(tmp_path, model="other"), tmp_path / "other") as folder:
        assert not (folder / "checkpoint").exists()


def test_a_failure_that_removes_its_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), on_claim(content(tmp_path), tmp_path / "out") as folder:
        shutil.rmtree(folder)
        raise RuntimeError
    assert not list((tmp_path / "claim" / "trainings").glob("*/"))


def test_a_result_that_cannot_be_moved_out_is_not_lost(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(DataError, match="exists already"), on_claim(content(tmp_path), tmp_path / "out"):
        pass
    with pytest.raises(OSError, match="not empty"), on_claim(content(tmp_path), tmp_path / "second") as folder:
        (folder / "model.txt").write_text("weights")
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "precious").write_text("of somebody who asks no lock")
    assert (content(tmp_path) / "model.txt").read_text() == "weights"


def test_a_second_pod_at_the_same_work_waits_for_the_first(tmp_path, caplog):
    order = []

    def work(name, seconds):
        with on_claim(content(tmp_path), tmp_path / name) as folder:
            order.append(f"{name} begins")
            assert not list(folder.iterdir())
            (folder / "model.txt").write_text(name)
            time.sleep(seconds)
            order.append(f"{name} ends")

    first, second = (threading.Thread(target=work, args=(name, 0.5)) for name in ("first", "second"))
    first.start()
    time.sleep(0.2)
    second.start()
    for pod in (first, second):
        pod.join()
    assert order == ["first begins", "first ends", "second begins", "second ends"]
    assert any("another works on the same (process" in line for line in caplog.messages)
    assert (tmp_path / "second" / "model.txt").read_text() == "second"

"""The claim where the nodes of a training meet: inputs copied once, one pod at a time, an end that leaves nothing."""

import threading
import time

import pytest

from drift.ground.errors import DataError
from drift.training.shared import brought, on_claim

THIS = {"train.epochs": 1, "model": "0123"}


def a_folder(path, text="x"):
    path.mkdir(parents=True)
    (path / "data.txt").write_text(text)
    return path


def test_an_input_is_copied_once_for_all_arms_by_its_contents(tmp_path):
    claim = tmp_path / "claim"
    first = brought(claim, a_folder(tmp_path / "one" / "data"), ())
    same = brought(claim, a_folder(tmp_path / "two" / "data"), ())
    other = brought(claim, a_folder(tmp_path / "three" / "data", "y"), ())
    assert first == same != other
    assert (first / "data.txt").read_text() == "x"
    assert len(list((claim / "inputs").iterdir())) == 2


def test_what_lies_on_a_claim_that_the_nodes_mount_is_read_there(tmp_path):
    models = a_folder(tmp_path / "models" / "vlm")
    claim = tmp_path / "claim"
    assert brought(claim, models, (tmp_path / "models",)) == models
    assert brought(claim, a_folder(claim / "merged"), ()) == claim / "merged"
    assert not (claim / "inputs").exists()


def test_arms_that_copy_at_the_same_time_get_one_whole_copy(tmp_path):
    source, claim, found = a_folder(tmp_path / "data", "x" * 10**6), tmp_path / "claim", []
    arms = [threading.Thread(target=lambda: found.append(brought(claim, source, ()))) for _ in range(8)]
    for arm in arms:
        arm.start()
    for arm in arms:
        arm.join()
    assert len(set(found)) == 1 and len(found) == 8
    assert [path.name for path in (claim / "inputs").iterdir()] == [found[0].parent.name]


def test_a_claim_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "claim").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be copied to .*; is the claim full"):
        brought(tmp_path / "claim", a_folder(tmp_path / "data"), ())
    with (
        pytest.raises(DataError, match="cannot be written"),
        on_claim(tmp_path / "claim", THIS, tmp_path / "out", keep_partial=True),
    ):
        pass


def test_a_training_is_made_on_the_claim_and_moved_to_its_place(tmp_path):
    with on_claim(tmp_path / "claim", THIS, tmp_path / "out", keep_partial=True) as folder:
        (folder / "model.txt").write_text("weights")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "model.txt").read_text() == "weights"
    assert not list((tmp_path / "claim" / "trainings").glob("*/"))


@pytest.mark.parametrize("kept", [True, False])
def test_a_failed_training_stays_on_the_claim_only_with_checkpoints(tmp_path, kept):
    with pytest.raises(RuntimeError), on_claim(tmp_path / "claim", THIS, tmp_path / "out", keep_partial=kept) as folder:
        (folder / "checkpoint").write_text("half")
        raise RuntimeError
    assert not (tmp_path / "out").exists()
    assert bool(list((tmp_path / "claim" / "trainings").glob("*/"))) is kept
    with on_claim(tmp_path / "claim", THIS, tmp_path / "out", keep_partial=True) as folder:
        assert (folder / "checkpoint").exists() is kept
    with on_claim(tmp_path / "claim", {**THIS, "model": "other"}, tmp_path / "else", keep_partial=True) as folder:
        assert not (folder / "checkpoint").exists()


def test_a_second_pod_of_the_same_training_waits_for_the_first(tmp_path, caplog):
    order = []

    def train(name, seconds):
        with on_claim(tmp_path / "claim", THIS, tmp_path / name, keep_partial=True) as folder:
            order.append(f"{name} begins")
            assert not list(folder.iterdir())
            (folder / "model.txt").write_text(name)
            time.sleep(seconds)
            order.append(f"{name} ends")

    first, second = (threading.Thread(target=train, args=(name, 0.5)) for name in ("first", "second"))
    first.start()
    time.sleep(0.2)
    second.start()
    for pod in (first, second):
        pod.join()
    assert order == ["first begins", "first ends", "second begins", "second ends"]
    assert any("another pod works on the same training" in line for line in caplog.messages)
    assert (tmp_path / "second" / "model.txt").read_text() == "second"

"""The claim where the nodes of a training meet: inputs are copied there once."""

import threading

import pytest

from drift.ground.errors import DataError
from drift.training.nodes.shared import brought


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

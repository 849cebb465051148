"""Output folders: complete or absent, one owner at a time, and nothing half-written on a full disk."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drift.ground.artifacts import read_json, staged, write_json, write_text
from drift.ground.errors import DataError, DiskError, HeldError
from tests.small_disk import small_disk

KILLED = """
import os, sys
from pathlib import Path
from drift.ground.artifacts import staged
with staged(Path(sys.argv[1]), keep_partial="keep" in sys.argv) as folder:
    (folder / "half").touch()
    (folder / "resume.json.partial-0123abcd").touch()
    os.kill(os.getpid(), 9)
"""


def killed(out: Path, *words: str) -> None:
    """A process that is killed while it writes ``out``."""
    assert subprocess.run([sys.executable, "-c", KILLED, str(out), *words], check=False).returncode == -9


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("keep_partial", [True, False])
def test_the_second_writer_is_told_who_is_the_first_and_disturbs_nothing(tmp_path: Path, keep_partial: bool):
    out = tmp_path / "out"
    with staged(out, keep_partial=True) as folder:
        (folder / "first").touch()
        said = rf"out: process {os.getpid()} on .* since .* writes it; wait for it, stop it, or choose another --out"
        with pytest.raises(HeldError, match=said), staged(out, keep_partial=keep_partial):
            pass
    assert names(out) == {"first"} and names(tmp_path) == {"out"}


def test_a_folder_that_is_finished_while_another_command_starts_is_not_written_again(tmp_path: Path):
    with staged(tmp_path / "out") as folder:
        (folder / "first").touch()
    with pytest.raises(DataError, match="exists already; remove it or choose another --out"), staged(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"}


def test_names_of_what_is_being_written_are_unique_but_where_a_step_can_go_on(tmp_path: Path):
    with staged(tmp_path / "a") as one, staged(tmp_path / "b", keep_partial=True) as two:
        assert re.fullmatch(r"a\.partial-[0-9a-f]{8}", one.name) and two.name == "b.partial"


@pytest.mark.parametrize(("words", "stays"), [(("keep",), {"half"}), ((), set())])
def test_what_a_killed_owner_left_is_removed_or_gone_on_from(tmp_path: Path, words: tuple[str, ...], stays: set[str]):
    killed(tmp_path / "out", *words)
    with staged(tmp_path / "out", keep_partial=True) as folder:
        assert names(folder) == stays, "no torn file of it"
    assert names(tmp_path) == {"out"}


def test_what_another_command_has_beside_stays(tmp_path: Path):
    killed(tmp_path / "out.20261126", "keep")
    (tmp_path / "out.20261126.partial-0123abcd").mkdir()
    beside = {"out.20261126.partial", "out.20261126.partial-0123abcd", ".out.20261126.lock"}
    assert names(tmp_path) == beside
    with staged(tmp_path / "out"):
        assert names(tmp_path) > beside
    killed(tmp_path / "out", "keep")
    with staged(tmp_path / "out.20261126"):
        assert "out.partial" in names(tmp_path)


@pytest.mark.parametrize(("keep_partial", "stays"), [(False, set()), (True, {"out.partial"})])
def test_a_full_disk_is_one_line_that_names_the_file_and_nothing_half_written_stays(
    tmp_path: Path, keep_partial: bool, stays: set[str]
):
    with small_disk(tmp_path, "64k"):
        said = r"out: No space left on device; make room, and start the same command again"
        with pytest.raises(DiskError, match=said), staged(tmp_path / "out", keep_partial=keep_partial) as folder:
            (folder / "weights").write_bytes(b"x" * 100_000)
        assert names(tmp_path) == stays


def test_a_file_on_a_full_disk_is_what_it_was(tmp_path: Path):
    with small_disk(tmp_path, "64k"):
        write_json(tmp_path / "run.json", {"status": "running"})
        with pytest.raises(OSError, match="No space left"):
            write_text(tmp_path / "run.json", "x" * 100_000)
        assert read_json(tmp_path / "run.json") == {"status": "running"}
        assert names(tmp_path) == {"run.json"}


def test_a_link_and_a_device_stay_what_they_are(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("link", "device"):
        write_text(tmp_path / name, "said")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_text() == "said" and Path("/dev/null").is_char_device()
    assert names(tmp_path) == {"link", "device", "file"}


def test_a_parent_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    said = r"out: cannot be written \(.*\); choose another --out"
    with pytest.raises(DataError, match=said), staged(tmp_path / "file" / "out"):
        pass


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_not_read(tmp_path, constant):
    (tmp_path / "scores.json").write_text(f'{{"right": [0.5, {constant}]}}')
    with pytest.raises(DataError, match=rf"scores\.json: missing or not JSON \({constant} is no number\)"):
        read_json(tmp_path / "scores.json")

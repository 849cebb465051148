"""A full disk as each library says it, on a disk that is full: one line, whichever it was."""

import contextlib
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from drift.ground.disk import full_disk, full_disk_said
from drift.ground.errors import DataError, DiskError
from tests.small_disk import small_disk

NOISE = torch.randn(100_000, generator=torch.Generator().manual_seed(0))


def sqlite(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as store:
        store.execute("create table t (x blob)")
        store.execute("insert into t values (?)", [b"x" * 400_000])
        store.commit()


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", b"x" * 400_000)


def copied(path: Path) -> None:
    source = path.parent.with_name("source")
    source.mkdir()
    (source / "x").write_bytes(b"x" * 400_000)
    shutil.copytree(source, path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "Python": lambda path: path.write_bytes(b"x" * 400_000),
    "safetensors": lambda path: save_file({"x": NOISE}, path),
    "torch": lambda path: torch.save(NOISE, path),
    "Arrow": lambda path: pq.write_table(pa.table({"x": NOISE.numpy()}), path),
    "SQLite": sqlite,
    "zip": archive,
    "a copied folder": copied,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_whichever_library_met_it(name: str, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    said = r"(No space left on device|is the disk full\?); make room, and start the same command again$"
    with (
        small_disk(tmp_path / "disk", "64k"),
        pytest.raises(DiskError, match=said) as caught,
        full_disk_said(tmp_path / "disk"),
    ):
        WRITERS[name](tmp_path / "disk" / "x")
    assert "\n" not in str(caught.value) and str(tmp_path / "disk") in str(caught.value)


def test_an_error_that_a_full_disk_has_led_to_is_known_by_its_cause():
    try:
        try:
            raise OSError(28, "No space left on device", "/data/x")
        except OSError as error:
            raise RuntimeError("the rank failed") from error
    except RuntimeError as error:
        assert full_disk(error) == "No space left on device"


def test_any_other_error_stays_what_it_is():
    with pytest.raises(DataError, match="no rows"), full_disk_said("out"):
        raise DataError("no rows")
    with pytest.raises(PermissionError), full_disk_said("out"):
        raise PermissionError(13, "Permission denied")
    assert full_disk(KeyError("space")) == ""

"""Hashes of large files are remembered from one command to the next, and never when anything speaks against it."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drift.ground import hashes
from drift.ground.artifacts import content_sha256
from drift.ground.hashes import LARGE, file_sha256, read_sha256
from drift.training.safety.checkpoints import fault_of, mark

ANOTHER = "0" * 64
"""Put into an entry: whoever answers this has not read the file."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 0.0)
    return tmp_path / "cache" / "drift" / "hashes"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "model" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"x" * LARGE)
    return file


def next_command() -> None:
    hashes._remembered.cache_clear()


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*"))


def remember_another(cache: Path) -> None:
    """Let the only entry answer `ANOTHER`, in the next command."""
    (entry,) = entries(cache)
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "sha256": ANOTHER}))
    next_command()


def test_the_next_command_does_not_read_a_large_file_again(cache: Path, weights: Path):
    assert file_sha256(weights) == hashlib.sha256(b"x" * LARGE).hexdigest()
    remember_another(cache)
    assert file_sha256(weights) == ANOTHER
    assert content_sha256(weights) == ANOTHER, "which every step asks"
    assert read_sha256(weights) == hashlib.sha256(b"x" * LARGE).hexdigest()


def test_a_link_is_remembered_as_the_file_that_it_names(cache: Path, weights: Path, tmp_path: Path):
    file_sha256(weights)
    remember_another(cache)
    (tmp_path / "link").symlink_to(weights)
    assert file_sha256(tmp_path / "link") == ANOTHER


def test_a_small_file_has_no_entry(cache: Path, weights: Path):
    weights.write_bytes(b"x" * (LARGE - 1))
    file_sha256(weights)
    assert entries(cache) == []


def test_other_contents_are_read_though_size_and_time_are_the_same(cache: Path, weights: Path):
    file_sha256(weights)
    remember_another(cache)
    before = weights.stat()
    weights.write_bytes(b"y" * LARGE)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_sha256(weights) == hashlib.sha256(b"y" * LARGE).hexdigest()


def test_another_file_in_its_place_is_read(cache: Path, weights: Path, tmp_path: Path):
    file_sha256(weights)
    remember_another(cache)
    (tmp_path / "new").write_bytes(b"y" * LARGE)
    (tmp_path / "new").replace(weights)
    assert file_sha256(weights) == hashlib.sha256(b"y" * LARGE).hexdigest()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff\xfe{",
        b"[]",
        b"null",
        b"{}",
        b'{"file": "/another", "stamp": [1, 2, 3, 4], "sha256": "' + b"0" * 64 + b'"}',
    ],
)
def test_a_broken_entry_is_ignored_and_written_anew(cache: Path, weights: Path, said: bytes):
    whole = file_sha256(weights)
    (entry,) = entries(cache)
    kept = entry.read_bytes()
    entry.write_bytes(said)
    next_command()
    assert file_sha256(weights) == whole
    assert entry.read_bytes() == kept


def test_an_entry_with_half_a_hash_is_ignored(cache: Path, weights: Path):
    whole = file_sha256(weights)
    (entry,) = entries(cache)
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "sha256": whole[:32]}))
    next_command()
    assert file_sha256(weights) == whole


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    digest = hashlib.file_digest

    def slowly(stream, name):
        with weights.open("ab") as file:
            file.write(b"y")
        return digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", slowly)
    file_sha256(weights)
    assert entries(cache) == []


def test_a_file_that_was_written_just_now_is_not_remembered(
    cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 3600.0)
    file_sha256(weights)
    assert entries(cache) == []


def test_entries_of_files_that_are_gone_go_with_the_next_one(cache: Path, weights: Path):
    file_sha256(weights)
    weights.rename(weights.with_name("renamed.safetensors"))
    file_sha256(weights.with_name("renamed.safetensors"))
    (entry,) = entries(cache)
    assert json.loads(entry.read_text())["file"].endswith("renamed.safetensors")


def test_without_a_cache_that_can_be_written_every_command_reads(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    whole = hashlib.sha256(b"x" * LARGE).hexdigest()
    for place in (str(tmp_path / "file"), "below/here"):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        next_command()
        assert file_sha256(weights) == whole
    assert not Path("below").exists(), "the specification has a relative path ignored"


def test_processes_at_once_keep_all_they_hash(cache: Path, tmp_path: Path):
    files = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * LARGE)
    code = (
        "import sys; from pathlib import Path; from drift.ground import hashes; hashes.SETTLED_SECONDS = 0.0\n"
        "for file in sys.argv[1:]: print(hashes.file_sha256(Path(file)))"
    )
    orders = (files[:4], files[:1:-1], files[::2])
    started = [
        subprocess.Popen([sys.executable, "-c", code, *map(str, order)], stdout=subprocess.PIPE, text=True)
        for order in orders
    ]
    for order, process in zip(orders, started, strict=True):
        said, _ = process.communicate(timeout=60)
        assert said.split() == [read_sha256(file) for file in order]
    kept = {said["file"]: said["sha256"] for said in (json.loads(entry.read_text()) for entry in entries(cache))}
    assert kept == {str(file): read_sha256(file) for file in files}


def test_a_checkpoint_is_read_before_a_training_goes_on_from_it(cache: Path, weights: Path):
    mark(weights.parent)
    file_sha256(weights)
    remember_another(cache)
    assert fault_of(weights.parent) is None


def test_reading_a_file_that_takes_a_while_is_shown(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(hashes, "LONG", LARGE)
    monkeypatch.setattr("drift.ground.progress.LINE_SECONDS", -1.0)
    assert read_sha256(weights) == hashlib.sha256(b"x" * LARGE).hexdigest()
    assert caplog.messages[0].startswith("hash of model.safetensors: 16.8MB of 16.8MB, ")

"""Locks: one process at a time, who holds one is said, a dead one holds nothing, on machines apart too."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from drift.ground import locks
from drift.ground.errors import HeldError
from drift.ground.locks import hold
from tests.small_disk import fill, small_disk

HOLDER = """
import os, sys, time
from pathlib import Path
from drift.ground.locks import hold
with hold(Path(sys.argv[1])):
    if "fork" not in sys.argv or os.fork() == 0:  # a child has let go when its fork returns
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
ELSEWHERE = {"pid": 7, "host": "node-3", "machine": "another", "command": "drift train", "since": "now", "token": "t"}


@contextmanager
def holder(path: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that holds the lock, and the child that it forked, if it was told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *words], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    with process:
        assert process.stdout
        yield process, int(process.stdout.readline())
        process.kill()


def test_a_second_process_is_told_who_holds_it_where_and_since_when(tmp_path: Path):
    with holder(tmp_path / "lock") as (process, _):
        said = rf"lock: process {process.pid} on {socket.gethostname()} since 20\d\d-\S+ \S+ UTC \(-c .*\) holds it"
        with pytest.raises(HeldError, match=said):
            hold(tmp_path / "lock")


def test_the_lock_of_a_killed_process_is_free_at_once_and_no_file_stays(tmp_path: Path):
    with holder(tmp_path / "lock") as (process, _):
        process.kill()
        process.wait()
        assert (tmp_path / "lock").exists()
        before = time.monotonic()
        with hold(tmp_path / "lock") as lock:
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid() == lock.holder.pid
        assert time.monotonic() - before < 1
    assert not (tmp_path / "lock").exists()


def test_a_child_does_not_hold_on_what_its_killed_parent_held(tmp_path: Path):
    with holder(tmp_path / "lock", "fork") as (process, child):
        try:
            with pytest.raises(HeldError):
                hold(tmp_path / "lock")
            process.kill()
            process.wait()
            os.kill(child, 0)
            hold(tmp_path / "lock").close()
        finally:
            os.kill(child, signal.SIGKILL)


def test_many_that_wait_have_it_one_after_the_other(tmp_path: Path):
    (tmp_path / "count").write_text("0")
    told = []

    def count() -> None:
        for _ in range(3):
            with hold(tmp_path / "lock", told.append):
                value = int((tmp_path / "count").read_text())
                time.sleep(0.01)
                (tmp_path / "count").write_text(str(value + 1))

    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "count").read_text() == "18"
    assert 0 < len(told) <= 18, "who waits is told once"


def test_of_a_command_line_no_values_and_no_addresses_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        sys, "argv", ["/usr/bin/drift", "train", "--out", "a b", "x.key=secret", "http://me:secret@host"]
    )
    with hold(tmp_path / "lock") as lock:
        assert lock.holder.command == "drift train --out 'a b'"
        assert "secret" not in (tmp_path / "lock").read_text()


def test_a_lock_of_another_machine_is_taken_over_when_it_gives_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(locks, "LOST_SECONDS", 0.5)
    (tmp_path / "lock").write_text(json.dumps(ELSEWHERE))
    with hold(tmp_path / "lock") as lock:
        assert lock.holder.pid == os.getpid()
    assert "left by process 7 on node-3 since now (drift train); looking" in caplog.text


def test_a_lock_of_another_machine_that_gives_signs_of_life_is_held(tmp_path: Path):
    (tmp_path / "lock").write_text(json.dumps(ELSEWHERE))
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.05):
            os.utime(tmp_path / "lock")

    with ExitStack() as stack:
        thread = threading.Thread(target=live)
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
        with pytest.raises(HeldError, match="process 7 on node-3 since now"):
            hold(tmp_path / "lock")


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows none, as Lustre without its option; signs of life come quickly."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "LOST_SECONDS", 1.0)


@pytest.mark.usefixtures("no_locks")
def test_where_the_file_system_knows_no_locks_the_living_is_refused_and_the_dead_taken_over(tmp_path: Path):
    with hold(tmp_path / "lock"), pytest.raises(HeldError, match=f"process {os.getpid()} on"):
        hold(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    (tmp_path / "lock").write_text(json.dumps(ELSEWHERE))
    hold(tmp_path / "lock").close()


@pytest.mark.usefixtures("no_locks")
def test_where_the_file_system_knows_no_locks_one_of_many_at_once_gets_it(tmp_path: Path):
    gate, got, refused = threading.Barrier(6), [], []

    def take() -> None:
        gate.wait()
        try:
            got.append(hold(tmp_path / "lock"))
        except HeldError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 5
    got[0].close()


def test_a_holder_that_was_taken_for_dead_is_told_so(tmp_path: Path):
    with hold(tmp_path / "lock") as lock:
        lock.require()
        (tmp_path / "lock").write_text(json.dumps(ELSEWHERE))
        with pytest.raises(HeldError, match=r"process 7 on node-3 .* has taken it over"):
            lock.require()


def test_on_a_full_disk_a_lock_holds_all_the_same_so_that_the_disk_can_be_cleaned(tmp_path: Path):
    with small_disk(tmp_path, "64k"):
        fill(tmp_path)
        with hold(tmp_path / "lock"), pytest.raises(HeldError, match="another process holds it"):
            hold(tmp_path / "lock")


def test_a_folder_that_cannot_be_written_is_the_system_s_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        hold(tmp_path / "none" / "lock")

"""Who works on what: one process holds an output folder, a run's name, a journal or an entry of a cache.

    <path>      the lock: one line of JSON that says who holds it and since when; absent while nobody does
    its time    the holder's sign of life

Among the processes of one machine the system decides (flock), and lets go when a process ends, however it ends. A file
system of several machines may know no locks, or each machine only its own; so whoever holds one gives a sign of life
every `BEAT_SECONDS`, and a holder on another machine that gives none for `LOST_SECONDS` is taken for dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from drift.ground.disk import FULL
from drift.ground.errors import HeldError

log = logging.getLogger(__name__)

SUFFIX = ".lock"
BEAT_SECONDS = 5.0
LOST_SECONDS = 4 * BEAT_SECONDS
LOOK_SECONDS = 0.2
"""From one look at a lock that another holds to the next."""
SETTLE_SECONDS = 0.5
"""Where the file system knows no locks: until all who wrote their name at once have written it."""
CHARACTERS = 120
"""Of a command line, as far as others are told of it."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. ``machine`` tells kernels apart: containers of one machine have names of their own."""

    pid: int
    host: str
    machine: str
    command: str
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


class Lock:
    """A lock that this process holds until it is closed, or the process ends. A child of it holds nothing."""

    def __init__(self, path: Path, descriptor: int, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._descriptor = descriptor
        self._closing, self._over = threading.Lock(), threading.Event()
        _HELD.add(self)
        threading.Thread(target=self._live, name=f"lock {path.name}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def require(self) -> None:
        """Raise HeldError if another has it by now: it took this process, silent for too long, for dead."""
        with contextlib.suppress(OSError):
            other = _holder(self.path.read_bytes())
            if other and other.token != self.holder.token:
                raise HeldError(f"{self.path}: {other} has taken it over, as this process gave no sign of life", other)

    def close(self) -> None:
        """Let go; the file goes too."""
        with self._closing:
            if self not in _HELD:  # closed, or in a child of the process that holds it
                return
            _HELD.remove(self)
            self._over.set()
            with contextlib.suppress(OSError):
                if _is_at(self.path, self._descriptor):
                    self.path.unlink()
            os.close(self._descriptor)

    def leave_to_parent(self) -> None:
        """In a child, which would hold the lock on after its parent's end."""
        os.close(self._descriptor)
        self._closing = threading.Lock()  # another thread may have had it when this child was made

    def _live(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with self._closing, contextlib.suppress(OSError):
                if self in _HELD:
                    os.utime(self._descriptor)


_HELD: set[Lock] = set()


def hold(path: Path, waiting: Callable[[HeldError], None] | None = None) -> Lock:
    """The lock ``path``, for this process. With ``waiting``, which is told once who holds it, it waits for it.

    Raises HeldError, which says who holds it and since when, and OSError where there can be no such file.
    """
    told = False
    while True:
        try:
            if lock := _take(path):
                return lock
        except HeldError as error:
            if waiting is None:
                raise
            if not told:
                waiting(error)
            told = True
            time.sleep(LOOK_SECONDS)


def _take(path: Path) -> Lock | None:
    """One try; None if the file was removed meanwhile, by whoever held it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        alone = _flock(path, descriptor)
        there = _holder(os.pread(descriptor, 4096, 0))
        if there and not (alone and there.machine == _machine()):
            _require_dead(path, there)
        if _is_at(path, descriptor):
            return Lock(path, descriptor, _sign(path, descriptor, alone))
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _flock(path: Path, descriptor: int) -> bool:
    """Whether the system has given us the lock; False if it knows none here. Raises HeldError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held_by(path, _signed(descriptor)) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _signed(descriptor: int) -> Holder | None:
    """Who holds it; it may be about to sign."""
    for _ in range(10):
        if holder := _holder(os.pread(descriptor, 4096, 0)):
            return holder
        time.sleep(0.02)
    return None


def _require_dead(path: Path, holder: Holder) -> None:
    """Raise HeldError if a holder that the system does not know of gives a sign of life while we look."""
    log.warning("%s: left by %s; looking for %.0f s whether that lives", path, holder, LOST_SECONDS)
    before, end = _sign_of_life(path), time.monotonic() + LOST_SECONDS
    while time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        now = _sign_of_life(path)
        if now is None:  # it let go
            return
        if now != before:
            raise _held_by(path, holder)


def _sign_of_life(path: Path) -> tuple[int, int] | None:
    """A file opened anew has the time that the server of the files knows, not the one that was kept here."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _sign(path: Path, descriptor: int, alone: bool) -> Holder:
    """Write down that we hold it; on a full disk, which a command may want to clear, only the system knows.

    Raises HeldError if, without locks of the system, another one has signed at the same time.
    """
    me = _myself()
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode() + b"\n", 0)
    except OSError as error:
        if not alone or error.errno not in FULL:
            raise
    if not alone:
        time.sleep(SETTLE_SECONDS)
        other = _holder(path.read_bytes())
        if other is None or other.token != me.token:
            raise _held_by(path, other)
    return me


def _held_by(path: Path, holder: Holder | None) -> HeldError:
    return HeldError(f"{path}: {holder or 'another process'} holds it; wait for it or stop it", holder)


def _holder(text: bytes) -> Holder | None:
    """Who signed; None if nobody has, or not whole."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _myself() -> Holder:
    since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return Holder(os.getpid(), socket.gethostname(), _machine(), _command(), since, uuid.uuid4().hex)


def _command() -> str:
    """The command without values and addresses: they may hold a key."""
    name, *words = sys.argv or ["python"]
    said = [Path(name).name, *(word for word in words if "=" not in word and "://" not in word)]
    return shlex.join(said)[:CHARACTERS]


@functools.cache
def _machine() -> str:
    """The same for all processes under one kernel, until it starts anew."""
    try:
        return BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _leave_to_parent() -> None:
    for lock in _HELD:
        lock.leave_to_parent()
    _HELD.clear()


os.register_at_fork(after_in_child=_leave_to_parent)

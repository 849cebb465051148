"""A command under a fault: run, judged, and run again without the fault.

The rule, the same for all: what the command says is right, or one line and an exit code of its own; nothing hangs and
no process is left; what it reads is untouched; at the final names is all or nothing; the same command again, without
the fault, makes the same as a command that nothing disturbed, and leaves nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from drift.cli.app import main
from drift.ground.artifacts import content_sha256
from tests.fault_proxy import FaultProxy
from tests.faults.commands import Command, Place, Result
from tests.faults.servers import ENVIRONMENT, MLFLOW, Servers
from tests.forked import begin

LIMIT_SECONDS, TIMES_LONGER = 120.0, 10
"""What takes longer than the one, and as often as the other what the command takes undisturbed, hangs."""
FIRST_SECONDS = 600.0
"""Of the undisturbed command."""
LINGER_SECONDS = 15.0
"""Within which the processes of a command that ended have ended too."""
ENDED = {
    "kill": (0, -signal.SIGKILL),
    "term": (0, 2, 128 + signal.SIGTERM, -signal.SIGTERM),
    "input": (0, 2),
}
"""Exit codes that are right, by what happened to the command."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: `None` is the exit code of one that had to be ended after the limit."""

    code: int | None
    out: str
    err: str
    seconds: float
    left: tuple[str, ...] = ()
    """The processes that it left."""


@dataclass(frozen=True)
class Undisturbed:
    """What the command makes, and leaves on its disk, when nothing happens to it."""

    seconds: float
    result: Result
    names: frozenset[str]
    bytes: int


class Process:
    """A command in a process and a session of its own."""

    def __init__(self, arguments: list[str], folder: Path, variables: dict[str, str], limit: float) -> None:
        self._limit = limit
        number = len(list(folder.glob("*.err")))
        self._out, self._err = (folder / f"{number}.{stream}" for stream in ("out", "err"))
        for stream in (self._out, self._err):
            stream.touch()
        self._began = time.monotonic()
        self._process = begin(_in_session, str(folder), *arguments, out=self._out, err=self._err, **variables)

    def send(self, number: int) -> None:
        """A signal to the process itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, number)

    def wait(self) -> Ended:
        """Until it ends, or the limit; then its whole session is ended."""
        self._process.join(self._limit)
        took, code = time.monotonic() - self._began, self._process.exitcode
        left = () if code is None else _left(self._process.pid or 0)
        _end_session(self._process.pid or 0)
        self._process.join()
        return Ended(code, self._out.read_text(errors="replace"), self._err.read_text(errors="replace"), took, left)


def _in_session(folder: str, *arguments: str) -> None:
    os.setsid()
    os.chdir(folder)
    main(list(arguments))


def _session(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _left(leader: int) -> tuple[str, ...]:
    """The processes that outlive their leader by more than a while."""
    deadline = time.monotonic() + LINGER_SECONDS
    while (found := _session(leader)) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[:80])
    return tuple(names)


def _end_session(leader: int) -> None:
    for process in _session(leader):
        with contextlib.suppress(psutil.Error):
            process.kill()


@dataclass
class Cell:
    """A command in a folder of its own, which holds a copy of the world as `in` and an empty `disk`."""

    command: Command
    place: Place
    inputs_sha256: str
    proxy: FaultProxy | None = None
    undisturbed: Undisturbed | None = None
    _said: list[str] = field(default_factory=list)

    @property
    def disk(self) -> Path:
        """Where it writes."""
        return self.place.folder / "disk"

    @property
    def inputs(self) -> Path:
        """What it reads."""
        return self.place.folder / "in"

    def start(self) -> Process:
        """The command, once more."""
        address = self.proxy.host if self.proxy else ""
        line = self.command.line.format(server=address, name=self.place.name)
        told = {"MLFLOW_TRACKING_URI": address} if self.command.server == MLFLOW else {}
        meant = self.undisturbed
        limit = max(LIMIT_SECONDS, TIMES_LONGER * meant.seconds) if meant else FIRST_SECONDS
        return Process(shlex.split(line), self.place.folder, {"MLFLOW_TRACKING_URI": "", **ENVIRONMENT, **told}, limit)

    def run(self) -> Ended:
        """The command to its end."""
        return self.start().wait()

    def result(self, ended: Ended | None = None) -> Result:
        """What it has made."""
        return self.command.result(replace(self.place, printed=ended.out if ended else ""))

    def names(self) -> frozenset[str]:
        """What lies on its disk, at the top."""
        return frozenset(path.name for path in self.disk.iterdir())


@contextlib.contextmanager
def cell(command: Command, world: Path, folder: Path, servers: Servers) -> Iterator[Cell]:
    """A fresh cell in ``folder``, removed in the end."""
    folder.mkdir(parents=True)
    shutil.copytree(world, folder / "in")
    (folder / "disk").mkdir()
    upstream = servers.upstream(command.server) if command.server else ""
    place = Place(folder, upstream, f"drift-{folder.name}")
    with contextlib.ExitStack() as opened:
        proxy = opened.enter_context(servers.proxy(command.server)) if command.server else None
        if command.prepare:
            command.prepare(place)
        yield Cell(command, place, content_sha256(world), proxy)
    shutil.rmtree(folder)


def undisturbed(one: Cell) -> Undisturbed:
    """The command as it is meant. Raises AssertionError if it does not end well: then there is nothing to compare."""
    ended = one.run()
    wrong = said_wrong(ended, (0,))
    made = one.result(ended)
    assert not wrong and made, f"{one.command.name}: {wrong or 'nothing made'}\n{ended.err}"
    size = sum(path.stat().st_size for path in one.disk.rglob("*") if path.is_file())
    return Undisturbed(ended.seconds, made, one.names(), size)


def said_wrong(ended: Ended, codes: tuple[int, ...]) -> list[str]:
    """What is wrong with how it ended."""
    if ended.code is None:
        return [f"hang: not over after {ended.seconds:.0f} s"]
    lines = [line for line in ended.err.splitlines() if line.startswith("drift: ")]
    checks = {
        f"traceback: {last_line(ended.err)}": "Traceback (most recent call last)" in ended.err,
        f"exit {ended.code}: {last_line(ended.err)}": ended.code not in codes,
        f"{len(lines)} lines: {ended.err[-300:]!r}": ended.code == 2 and len(lines) != 1,
        f"left running: {ended.left}": bool(ended.left),
    }
    return [wrong for wrong, holds in checks.items() if holds]


def last_line(text: str) -> str:
    """The last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1][:200]


def judge(one: Cell, ended: list[Ended], codes: tuple[int, ...]) -> list[str]:
    """What is wrong after the fault, then after the same command without it; empty where all is right."""
    assert one.undisturbed
    wrong = [word for each in ended for word in said_wrong(each, codes)]
    made = one.result(ended[-1])
    whole = made == one.undisturbed.result
    if len(ended) > 1 and all(each.code for each in ended):
        wrong.append(f"neither: exits {[each.code for each in ended]}")
    if any(each.code == 0 for each in ended) and not whole:
        wrong.append(f"wrong: ended with 0, {differing(made, one.undisturbed.result)}")
    elif made and not whole and not one.command.gradual:
        wrong.append(f"half: {differing(made, one.undisturbed.result)}")
    if content_sha256(one.inputs) != one.inputs_sha256:
        wrong.append("lost: what it reads was changed")
    return wrong if whole and not one.command.gradual else [*wrong, *_again(one)]


def _again(one: Cell) -> list[str]:
    assert one.undisturbed
    ended = one.run()
    made, names = one.result(ended), one.names()
    wrong = said_wrong(ended, (0,))
    if made != one.undisturbed.result:
        wrong.append(f"bytes: {differing(made, one.undisturbed.result)}")
    elif names != one.undisturbed.names:
        wrong.append(f"litter: {sorted(names ^ one.undisturbed.names)}")
    return [f"again, {word}" for word in wrong]


def differing(made: Result, wanted: Result) -> str:
    """The first names by which two results differ."""
    names = [name for name in sorted({*made, *wanted}) if made.get(name) != wanted.get(name)]
    return ", ".join(f"{name} {made.get(name, 'absent')[:12]}" for name in names[:4])


Strike = Callable[[Cell, str | float], contextlib.AbstractContextManager[list[Ended]]]
"""Runs a cell's command under a fault; in its block the fault is over, and what it struck still there."""

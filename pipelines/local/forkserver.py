"""The process that steps are forked from: it has imported what they need, so that a step starts in a tenth of a second.

A program of its own, started by `pipelines.local.work.ForkServer`: a socket to listen on and the lifeline are its
arguments. A request is one line of JSON; the answer is two: the process id, and at the end the exit code, negative for
a signal. It imports a step's module for what that brings along (torch, transformers, ...) and then forgets our own
code, which every step reads afresh from the disk: no step runs older code than it is fingerprinted with.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

OURS = "drift"
"""The package that is never kept."""


class Server:
    """Forks a child per request and says how each ended. One thread, as a process that forks must have."""

    def __init__(self, listener: socket.socket, lifeline: int, first: list[str]) -> None:
        self._listener, self._lifeline = listener, lifeline
        self._waiting = first
        self._children: dict[int, socket.socket] = {}
        self._wakeup, waker = socket.socketpair()
        waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker.fileno())
        self._inner = [listener, self._wakeup, waker]

    def serve(self) -> None:
        """Answer requests, and between them import what the next steps will need; until the runner is gone."""
        with selectors.DefaultSelector() as selector:
            for source in (self._listener, self._wakeup, self._lifeline):
                selector.register(source, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(0 if self._waiting else None)}
                if self._lifeline in ready:
                    return
                if self._wakeup in ready:
                    self._wakeup.recv(4096)
                    self._reap()
                if self._listener in ready:
                    self._answer()
                elif self._waiting:
                    bring_along(self._waiting.pop(0))

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        request = json.loads(connection.makefile("rb").readline())
        bring_along(request["module"])
        self._waiting += [name for name in request["next"] if name not in self._waiting]
        gc.freeze()  # a child that collects does not copy what all share
        pid = os.fork()
        if pid == 0:
            for other in (connection, *self._inner, *self._children.values()):
                other.close()
            leave(become_step, request)
        self._children[pid] = connection
        _say(connection, pid)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._children.pop(pid) as connection:
                _say(connection, os.waitstatus_to_exitcode(status))


_BROUGHT: set[str] = set()


def bring_along(module: str) -> None:
    """Import `module` and forget our own part of what came. What cannot be imported is left for the step to say."""
    if module in _BROUGHT:
        return
    _BROUGHT.add(module)
    with _muted(), contextlib.suppress(Exception):
        importlib.import_module(module)
    for name in [name for name in sys.modules if name.partition(".")[0] == OURS]:
        del sys.modules[name]


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """What a library prints while it is imported goes nowhere; the step that imports it may say it again."""
    before = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)


def become_step(request: dict[str, Any]) -> None:
    """The child: a session of its own, the step's log, environment and arguments; then Kubeflow's executor."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _redirect(request["log"])
    os.environ.clear()
    os.environ.update(request["environment"], _KFP_RUNTIME="true")
    tempfile.tempdir = None
    program = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
    program.write_text(request["source"], encoding="utf-8")
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["executor_main", "--component_module_path", str(program), *request["arguments"]]
    from kfp.dsl.executor_main import executor_main

    executor_main()


def leave(work: Callable[[dict[str, Any]], None], request: dict[str, Any]) -> NoReturn:
    """Do the work and end as a process does, but for taking apart what was imported, which costs half a second."""
    code: Any = 0
    try:
        work(request)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # wait for threads, as the interpreter does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _redirect(log: str) -> None:
    """Standard output and error into the log, and nothing on standard input."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(source, target)
    os.close(written)
    os.close(nothing)


def _say(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the runner has stopped waiting
        connection.sendall(f"{number}\n".encode())


def main() -> None:
    """``forkserver.py LISTENER LIFELINE MODULE...``: two inherited descriptors, and what to import at once."""
    listener, lifeline, *first = sys.argv[1:]
    os.environ["_KFP_RUNTIME"] = "true"
    Server(socket.socket(fileno=int(listener)), int(lifeline), ["kfp.dsl.executor_main", *first]).serve()


if __name__ == "__main__":
    main()

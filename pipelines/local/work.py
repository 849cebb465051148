"""A task's command at work on this machine, as a chain sees it: waited for, signalled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from drift.tracking.steps import LIFELINE
from pipelines.local import forkserver

GPU = Path("/dev/nvidia0")
"""There where this machine has one."""


class Work(Protocol):
    """A task's command at work."""

    def wait(self) -> int:
        """Its exit code; minus the signal that ended it."""

    def send(self, number: int) -> None:
        """Signal all its processes; none if it has ended."""


class ForkServer:
    """Starts the processes of steps (see `pipelines.local.forkserver`), and holds the lifeline that they hang on.

    ``first``: modules that are imported at once, while this process is still getting ready.
    """

    def __init__(self, first: Iterable[str] = ()) -> None:
        self._lifeline, self._held = os.pipe()
        self._folder = tempfile.TemporaryDirectory(prefix="drift-steps-")
        self._address = str(Path(self._folder.name) / "socket")  # a short path, as sockets need
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen()
            inherited = (listener.fileno(), self._lifeline)
            self._process = subprocess.Popen(
                [sys.executable, "-P", forkserver.__file__, *map(str, inherited), *first],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=inherited,
            )

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, module: str, following: Sequence[str]
    ) -> ForkedWork:
        """A lightweight component's command as a process of a session of its own, its output in ``log``.

        ``module``: the library module behind the step; ``following``: those that steps after it are likely to need.
        """
        source, *arguments = command[3:]  # behind `sh -ec SCRIPT`
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        request = {
            "source": source,
            "arguments": arguments,
            "environment": {**environment, LIFELINE: str(self._lifeline)},
            "log": str(log),
            "module": module,
            "next": list(following),
        }
        connection.sendall(json.dumps(request).encode() + b"\n")
        return ForkedWork(connection)

    def close(self) -> None:
        """Let go of the lifeline: the server and every step that is still there end now."""
        os.close(self._held)
        os.close(self._lifeline)
        self._process.kill()  # it may be at an import that nobody waits for any more
        self._process.wait()
        self._folder.cleanup()


class ForkedWork:
    """A process that the server has forked, known by its connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._answers = connection, connection.makefile("r")
        self._pid = int(self._answers.readline() or 0)

    def wait(self) -> int:
        """Its exit code; minus the signal that ended it, SIGKILL if the server is gone and can tell no more.

        Interrupted by an exception it can be called again.
        """
        answer = self._answers.readline()
        if not answer:
            self.send(signal.SIGKILL)
        self._pid = 0
        self._answers.close()
        self._connection.close()
        return int(answer or -signal.SIGKILL)

    def send(self, number: int) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

"""A task's command at work on this machine, as a chain sees it: waited for, signalled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

GPU = Path("/dev/nvidia0")
"""There where this machine has one."""


class Work(Protocol):
    """A task's command at work."""

    def wait(self) -> int:
        """Its exit code; minus the signal that ended it."""

    def send(self, number: int) -> None:
        """Signal all its processes; none if it has ended."""


class ProcessWork:
    """A command as a process of a session of its own, which holds the other end of the lifeline."""

    def __init__(self, command: list[str], environment: Mapping[str, str], lifeline: int, log: BinaryIO) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=(lifeline,),
        )

    def wait(self) -> int:
        return self._process.wait()

    def send(self, number: int) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

"""Runs a command that ends when the process that started it does, however that ends: `guard.py GRACE COMMAND...`.

Standard input is a pipe that the starter holds open: it closes with the starter, by SIGKILL too. Then the command and
all that it has started get SIGTERM, and what is left when it has ended, or after GRACE seconds, SIGKILL. Needs nothing
but the standard library, and runs as a file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """The command's exit code, as a shell says it."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_starter, args=(process, grace), daemon=True).start()
    code = process.wait()
    _send(process, signal.SIGKILL)  # engines and workers that it left behind
    return 128 - code if code < 0 else code


def _end_with_starter(process: subprocess.Popen[bytes], grace: float) -> None:
    os.read(sys.stdin.fileno(), 1)  # nobody writes: it returns at the end; unbuffered, since it may not be awaited
    _send(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _send(process, signal.SIGKILL)


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the command's group, of which it is the first."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main())

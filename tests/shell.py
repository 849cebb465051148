"""A shell whose `drift` is forked from a warm process: an import proves nothing a second time (`tests/forked.py`)."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from drift.cli.app import main
from tests.forked import begin

ROOT = Path(__file__).parent.parent
PYTHON = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
CLIENT = """#!%s -SEI
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect("%s")
    server.sendall(json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]).encode() + b"\\n")
    code, out, error = json.load(server.makefile())
sys.stdout.write(out)
sys.stderr.write(error)
sys.exit(code)
"""


class Shell:
    """bash in a folder. Its `python` is this one, its `drift` this checkout's; neither has standard input."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._programs = folder, Path(tempfile.mkdtemp(prefix="drift-"))
        self._server = socketserver.UnixStreamServer(str(self._programs / "socket"), _Called)
        for name, text in {"python": PYTHON, "drift": CLIENT % (sys.executable, self._programs / "socket")}.items():
            (self._programs / name).write_text(text)
            (self._programs / name).chmod(0o755)

    def __enter__(self) -> Shell:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._programs)

    def run(self, text: str) -> None:
        """Raises AssertionError, with what was printed, where a line does not end with 0."""
        path = {"PATH": f"{self._programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            ["bash", "-ec", text], cwd=self._folder, env={**os.environ, **path}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert ended.returncode == 0, f"{text}\n{ended.stdout[-3000:]}"


class _Called(socketserver.StreamRequestHandler):
    """One `drift …`, to its end."""

    def handle(self) -> None:
        folder, words, variables = json.loads(self.rfile.readline())
        with tempfile.TemporaryDirectory() as kept:
            out, error = Path(kept) / "out", Path(kept) / "error"
            process = begin(_there, folder, words, out=out, err=error, **variables)
            process.join()
            self.wfile.write(json.dumps([process.exitcode, out.read_text(), error.read_text()]).encode())


def _there(folder: str, words: list[str]) -> None:
    os.chdir(folder)
    for option, place in itertools.pairwise(words):
        if option in {"-o", "--out"}:  # what another line has written: lines that write the same are alternatives
            shutil.rmtree(place) if Path(place).is_dir() else Path(place).unlink(missing_ok=True)
    main(words)

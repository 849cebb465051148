"""MLflow's own pages over the runs of this machine: a server on 127.0.0.1, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drift.ground.errors import ServiceError
from drift.tracking.store import URI, artifacts_of, open_client, redact, store_uri

HOST = "127.0.0.1"
PORT = 5000
READY_SECONDS = 180.0
SAID = 4000
"""Characters of the server's log in which the cause of its end is looked for."""


def ui_address(runs: Path) -> str:
    """The address of the server that the runs are tracked at; '' for the store in ``runs``, which none shows yet."""
    uri = store_uri(runs)
    return redact(uri) if uri.startswith("http") else ""


def free_port(wanted: int | None) -> int:
    """``wanted``, or 5000, or else any that is free. Raises ServiceError if the one that is wanted is in use."""
    if _is_free(wanted or PORT):
        return wanted or PORT
    if wanted:
        raise ServiceError(f"--port {wanted}: in use; name another, or leave it out to take a free one")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def ui_command(runs: Path, port: int) -> list[str]:
    """The command of the server. Raises ServiceError where there is no store in ``runs``, or it cannot be read."""
    uri = store_uri(runs)
    if not uri.startswith("sqlite:///"):
        raise ServiceError(f"{URI}: the runs are at {redact(uri)}; no server can be started over it here")
    if not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ServiceError(f"{runs}: no MLflow store there yet; `drift run` makes one, --runs names another folder")
    open_client(uri)
    server = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return [*server, "--backend-store-uri", uri, "--default-artifact-root", str(artifacts_of(uri))]


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the block, and is no fault; a shell may have had its background ignore the first."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def served(runs: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server, once it answers; it ends with the block. Raises ServiceError, with its log, if it does not start."""
    command = ui_command(runs, port)
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = runs / "ui.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait(process, f"http://{HOST}:{port}/health", log)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: a port just left is free
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.2)
    lines = log.read_text(encoding="utf-8", errors="replace")[-SAID:].split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    raise ServiceError(f"MLflow did not start ({last.strip():.200}); see {log}")

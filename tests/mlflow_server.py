"""A real MLflow server on loopback, in a process of its own."""

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.mlflow_store import fresh_store

READY_SECONDS = 120
ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "a-password-of-tests"}


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own settings, under which a server that is away costs no time."""
    monkeypatch.setenv("DRIFT_MLFLOW_LIMITS", "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


@contextlib.contextmanager
def mlflow_server(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve a new store in ``folder``; yields the address. ``arguments`` and ``environment`` come on top."""
    with Server(folder, arguments, environment or {}) as server:
        yield server.address


class Server:
    """A server on a new store in ``folder``; stopped and started again, it has the same store and address."""

    def __init__(
        self, folder: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.address = f"http://127.0.0.1:{_free_port()}"
        self._log = folder / "server.log"
        own = ["--host", "127.0.0.1", "--port", self.address.rpartition(":")[2], "--workers", "1"]
        stores = ["--backend-store-uri", fresh_store(folder), "--artifacts-destination", str(folder / "artifacts")]
        self._command = [sys.executable, "-m", "mlflow", "server", *own, *stores, *arguments]
        self._environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
        self._environment.pop("MLFLOW_TRACKING_URI", None)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Until it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        _wait(self._process, f"{self.address}/health")

    def stop(self, signal_: int = signal.SIGTERM) -> None:
        """All its processes, by whatever signal; nothing where it is stopped."""
        if self._process is not None:
            os.killpg(self._process.pid, signal_)
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def server_with_users(folder: Path, everyone: str = "READ") -> Iterator[str]:
    """The same with MLflow's own users: `ADMIN`, and whoever is made; what `everyone` may is READ."""
    settings = folder / "auth.ini"
    password = ADMIN["MLFLOW_TRACKING_PASSWORD"]
    settings.write_text(
        f"[mlflow]\ndefault_permission = {everyone}\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = admin\nadmin_password = {password}\n"
    )
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of tests"}
    with mlflow_server(folder, "--app-name", "basic-auth", environment=environment) as address:
        yield address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError("the MLflow server did not start")

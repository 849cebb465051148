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
from collections.abc import Iterator, Mapping
from pathlib import Path

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
    address = f"http://127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    stores = ["--backend-store-uri", fresh_store(folder), "--artifacts-destination", str(folder / "artifacts")]
    own = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
    own.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--workers", "1", *stores, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=own,
            start_new_session=True,
        )
    try:
        _wait(process, f"{address}/health")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


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

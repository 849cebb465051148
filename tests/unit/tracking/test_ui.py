"""`drift ui`: a free port or a clear line, and the store that is meant."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from drift.ground.errors import ServiceError
from drift.tracking.ui import PORT, free_port, served, ui_address, ui_command
from tests.mlflow_store import fresh_store


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_ui_shows_the_embedded_store_of_the_folder_that_is_named(tmp_path: Path):
    folder = tmp_path / "rehearsal"
    folder.mkdir()
    fresh_store(folder)
    command = ui_command(folder, 5005)
    assert f"sqlite:///{folder}/mlflow.db" in command and "5005" in command and "127.0.0.1" in command
    assert ui_address(folder) == ""


def test_a_folder_without_a_store_is_one_line_and_makes_none(tmp_path: Path):
    with pytest.raises(ServiceError, match="no MLflow store there yet"):
        ui_command(tmp_path, 5005)
    assert not list(tmp_path.iterdir())


def test_a_server_is_opened_and_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example")
    assert ui_address(tmp_path) == "https://mlflow.example"
    with pytest.raises(ServiceError, match="no server can be started over it here"):
        ui_command(tmp_path, 5005)


def test_a_port_in_use_is_one_line_and_another_is_taken_where_none_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"--port {port}: in use; name another, or leave it out"):
            free_port(port)
    assert free_port(port) == port
    with socket.socket() as usual:
        usual.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            usual.bind(("127.0.0.1", PORT))
            usual.listen()
        except OSError:
            pass  # another program has it: the same to us
        assert free_port(None) != PORT


@pytest.mark.slow
def test_the_server_answers_when_the_block_begins_and_is_gone_when_it_ends(tmp_path: Path):
    fresh_store(tmp_path)
    port = free_port(None)
    with served(tmp_path, port) as server, urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
        assert answer.read() == b"OK"
    assert server.returncode is not None and free_port(port) == port


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_opens_a_browser_and_ends_well_and_its_server_too(tmp_path: Path, number: signal.Signals):
    fresh_store(tmp_path)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "drift", "ui", "--runs", str(tmp_path), "--port", str(free_port(None))]
    environment = {**os.environ, "BROWSER": f"{browser} %s"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as shown:
        assert shown.stdout is not None
        said = shown.stdout.readline()
        while not (tmp_path / "opened").exists():
            assert shown.poll() is None
            time.sleep(0.05)
        shown.send_signal(number)
    address = (tmp_path / "opened").read_text().strip()
    assert said == f"MLflow on {address} (Ctrl-C stops it)\n" and shown.returncode == 0
    with pytest.raises(OSError), urllib.request.urlopen(address):
        pass


def test_a_server_that_does_not_start_is_one_line_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # no Python starts with it
    with pytest.raises(ServiceError, match="MLflow did not start") as caught, served(tmp_path, free_port(None)):
        pass
    assert str(tmp_path / "ui.log") in str(caught.value) and "\n" not in str(caught.value)

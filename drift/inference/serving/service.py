"""vLLM's server started for whoever wants to ask it, awaited, and ended with us. What it says goes to the terminal."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
from collections.abc import Callable

from drift.ground.errors import ConfigError, ServiceError
from drift.inference.served import POLL_SECONDS, ending, find_vllm, health, start
from drift.inference.serving.command import Wanted
from drift.inference.serving.named import directory

KEY = "VLLM_API_KEY"
"""vLLM's own variable for the key that its clients must send."""


def serve(wanted: Wanted, ready: Callable[[str], None]) -> None:
    """Serve until the server ends or this process is interrupted; ``ready`` gets the URL once it answers.

    Raises ConfigError (vLLM is not installed, the port is taken, a machine's address without a key), what `directory`
    raises, and ServiceError if the server ends by itself.
    """
    executable = _installed(wanted)
    _require_key(wanted.host)
    _require_free(wanted.host, wanted.port)
    with directory(wanted.model, wanted.found) as folder:
        process = start(wanted.words(str(folder), executable), os.environ.get(KEY))
        try:
            _await(process, f"http://{_asked_at(wanted.host)}:{wanted.port}", ready)
            code = process.wait()
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    raise ServiceError(f"{wanted.name}: vLLM ended{ending(code)}; what it said stands above")


def _await(process: subprocess.Popen[bytes], address: str, ready: Callable[[str], None]) -> None:
    """Until it answers, or has ended."""
    while process.poll() is None:
        if health(address) == 200:
            ready(f"{address}/v1")
            return
        try:
            process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _installed(wanted: Wanted) -> str:
    try:
        return find_vllm(wanted.config, "serve")
    except ConfigError as error:
        raise ConfigError(
            f"{error}; without it: `drift ask --model {wanted.model}` here, or on another machine what `drift serve "
            f"--model {wanted.model} --print` prints"
        ) from None


def _require_key(host: str) -> None:
    """Raise ConfigError if others can reach it and it would answer everybody."""
    if not _is_loopback(host) and not os.environ.get(KEY):
        raise ConfigError(
            f"--host {host}: others reach it there, and it would answer everybody; export {KEY}, which clients then "
            "send as their key, or leave --host out"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_free(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(f"--port {port}: cannot be served at {host} ({error.strerror}); choose another") from None


def _asked_at(host: str) -> str:
    """Where it is asked on this machine, for a host that stands for all addresses."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown

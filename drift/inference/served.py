"""A checkpoint that vLLM serves on this machine as long as it is asked: started, awaited, asked as any server, ended.

`vllm serve` runs below `drift.inference.guard`, which ends it with us. It listens on loopback alone and knows one key,
random and told by its environment, so that nobody else is asked by mistake, and nobody else asks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Generic

import urllib3

from drift.config.servers import EndpointConfig, VllmConfig
from drift.ground.errors import ConfigError, ServiceError, UnavailableError
from drift.inference import guard
from drift.inference.endpoint import Asked, Endpoint
from drift.inference.reply import Reply, for_now
from drift.weights.storage.checkpoints import resolve

logger = logging.getLogger(__name__)

VARIABLE = "DRIFT_VLLM"
OWN = Path(".venv-vllm/bin/vllm")
HOST = "127.0.0.1"
MAX_RETRIES = 2
"""Of a request: a server of ours refuses nobody, and one that has ended does not come back."""
POLL_SECONDS = 0.2
TELL_SECONDS = 30.0
ANSWER_SECONDS = 5.0
ENDING_SECONDS = 15.0
"""vLLM looks every 5 s whether its engine is dead, and then ends."""
GRACE_SECONDS = 10.0
SAID_BYTES = 64_000
STANDARD_ERROR = 2
_DEAD = 503
_PREFIX = re.compile(r"^(\(\w+[^)]*pid=\d+\) *)?((INFO|WARNING|ERROR) \d\d-\d\d [\d:]+ \[[^\]]*\] *)?")
_ERROR = re.compile(r"(([A-Za-z_]\w*\.)*\w*(Error|Exception)|\berror): +\S.*")


def find_vllm(config: VllmConfig, where: str) -> str:
    """Path of the executable `vllm`. Raises ConfigError if there is none; ``where`` is the section's key."""
    named = config.command or os.environ.get(VARIABLE)
    places = [named] if named else [str(OWN), str(Path(sys.executable).with_name("vllm")), "vllm"]
    found = next(filter(None, map(shutil.which, places)), None)
    if found is None:
        missing = f"'{named}' is no executable" if named else "vLLM is not installed"
        raise ConfigError(
            f"{where}.command: {missing}; install it in an environment of its own (`python -m venv .venv-vllm && "
            f".venv-vllm/bin/pip install vllm`), or name its executable here or in {VARIABLE}"
        )
    return str(Path(found).absolute())


class Served(Generic[Asked]):
    """Asks a checkpoint through a server that lives as long as `sample`: see `drift.inference.endpoint.Endpoint`."""

    batch_size = 1

    def __init__(
        self,
        config: VllmConfig,
        model: str,
        dtype: str,
        where: str,
        settings: Callable[[Asked], dict[str, Any]],
        image_max_pixels: int | None,
        image_min_pixels: int | None = None,
    ) -> None:
        """``model`` is a directory or a hub id, and the name it is served by. Raises CheckpointError, ConfigError."""
        self.config, self.model, self.where = config, model, where
        self.executable = find_vllm(config, where)
        self.arguments = ["serve", str(resolve(model)), *arguments(config, model, dtype)]
        self.settings, self.pixels = settings, (image_max_pixels, image_min_pixels)

    def sample(self, requests: Iterable[Asked]) -> Generator[tuple[Asked, Reply], None, None]:
        """Replies as they come. Raises ServiceError if the server does not start, UnavailableError if it ends."""
        with serving(self.config, [self.executable, *self.arguments], self.where) as (server, endpoint):
            asking = Endpoint(endpoint, self.model, self.where, self.settings, *self.pixels).sample(requests)
            with contextlib.closing(asking) as replies:
                yield from _watched(server, replies)


def arguments(config: VllmConfig, name: str, dtype: str) -> list[str]:
    """Of `vllm serve`, but for the model and its address. Nothing that the checkpoint ships decides the sampling."""
    import torch  # to look for its executable needs none

    limits = {"image": config.images_per_prompt, "video": 0}
    copies = config.copies(torch.cuda.device_count())
    given = {
        "--served-model-name": name,
        "--dtype": dtype,
        "--generation-config": "vllm",
        "--tensor-parallel-size": config.tensor_parallel,
        "--data-parallel-size": copies if copies > 1 else None,
        "--max-model-len": config.max_model_len,
        "--gpu-memory-utilization": config.gpu_memory_utilization,
        "--max-num-seqs": config.max_num_seqs,
        "--limit-mm-per-prompt": json.dumps(limits) if config.images_per_prompt else None,
    }
    pairs = [(option, str(value)) for option, value in given.items() if value is not None]
    switches = ["--disable-uvicorn-access-log", *(["--trust-remote-code"] if config.trust_remote_code else [])]
    return [*(word for pair in pairs for word in pair), *switches, *config.args]


class Server:
    """The process of a server that has been started, and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int, where: str, key: str) -> None:
        self.process, self.log, self.where = process, log, where
        self.address, self._key = f"http://{HOST}:{port}", key

    def await_health(self, seconds: float) -> None:
        """Raises ServiceError if it ends, or does not serve within so many seconds."""
        began = told = time.monotonic()
        while health(self.address) != 200:
            if not self._runs_after(POLL_SECONDS):
                raise ServiceError(f"{self.where}: vLLM did not start: {self._end()}")
            now = time.monotonic()
            if now - began > seconds:
                raise ServiceError(
                    f"{self.where}.start_timeout_seconds: vLLM does not serve after {seconds:g} s "
                    f"({self._last_line()}); raise it; its log is {self.log}"
                )
            if now - told > TELL_SECONDS:
                told = now
                logger.info("vLLM has been starting for %.0f s: %s", now - began, self._last_line())
        logger.info("vLLM serves after %.0f s", time.monotonic() - began)

    def require_alive(self) -> None:
        """Raise UnavailableError if it has ended, or its engine has: started again, it may go on."""
        if self._runs_after(0) and health(self.address) not in (None, _DEAD):
            return
        ended = "vLLM ended" if not self._runs_after(ENDING_SECONDS) else "vLLM's engine ended"
        raise UnavailableError(
            f"{self.where}: {ended} while it was asked: {self._end()}; the replies so far are kept, run again to go on"
        )

    def _runs_after(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _end(self) -> str:
        """What it said of its end, with the last lines in our own log."""
        lines = self._lines()
        for line in lines[-10:]:
            logger.warning("vLLM: %s", line)
        return f"{_cause(lines)}{ending(self.process.poll())}; its log is {self.log}"

    def _last_line(self) -> str:
        return (self._lines() or ["it said nothing"])[-1][:200]

    def _lines(self) -> list[str]:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - SAID_BYTES))
            said = file.read().decode("utf-8", "replace").replace(self._key, "***")
        return [stripped for line in said.splitlines() if (stripped := _PREFIX.sub("", line).strip())]


def _cause(lines: list[str]) -> str:
    """The first error near the end: those that follow say that there was one."""
    errors = (found.group() for line in lines[-200:] if (found := _ERROR.search(line)))
    return next(errors, (lines or ["it said nothing"])[-1])[:300]


def ending(code: int | None) -> str:
    """As `drift.inference.guard` has it, like a shell: past 128 it is a signal's."""
    if code is None:
        return ""
    return f" (exit code {code})" if code <= 128 else f" (ended by {signal.Signals(code - 128).name})"


@contextlib.contextmanager
def serving(config: VllmConfig, command: list[str], where: str) -> Iterator[tuple[Server, EndpointConfig]]:
    """A server that answers, and how it is asked; it has ended when the block has. Its log stays if the block fails."""
    key, port = secrets.token_hex(16), _free_port()
    with tempfile.NamedTemporaryFile(prefix="drift-vllm-", suffix=".log", delete=False) as log:
        process = start([*command, "--host", HOST, "--port", str(port)], key, log)
    server = Server(process, Path(log.name), port, where, key)
    try:
        server.await_health(config.start_timeout_seconds)
        with _told(f"DRIFT_VLLM_KEY_{port}", key) as variable:
            yield server, _endpoint(config, server.address, variable)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    server.log.unlink(missing_ok=True)


def start(command: list[str], key: str | None, log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """`vllm` with these words, below what ends it when this process ends, or closes its standard input.

    It wants ``key`` of who asks, if there is one. Without a ``log`` it speaks on standard error. Ctrl-C in the terminal
    reaches this process alone, never what would end it.
    """
    return subprocess.Popen(
        [sys.executable, "-I", guard.__file__, str(GRACE_SECONDS), *command],
        stdin=subprocess.PIPE,
        stdout=log or STANDARD_ERROR,
        stderr=subprocess.STDOUT,
        env=_environment(key),
        start_new_session=True,
    )


def health(address: str) -> int | None:
    """Status of a server's `/health`; 0 while it is busy, None while nobody listens there."""
    try:
        answer = urllib3.request("GET", f"{address}/health", timeout=ANSWER_SECONDS, retries=False)
    except urllib3.exceptions.TimeoutError:
        return 0
    except urllib3.exceptions.HTTPError:
        return None
    return int(answer.status)


def _endpoint(config: VllmConfig, address: str, variable: str) -> EndpointConfig:
    return EndpointConfig(
        base_url=f"{address}/v1",
        api_key_env=variable,
        concurrency=config.concurrency,
        timeout_seconds=config.timeout_seconds,
        max_retries=MAX_RETRIES,
        extra_body=config.extra_body,
        system=config.system,
    )


def _watched(server: Server, replies: Iterator[tuple[Asked, Reply]]) -> Iterator[tuple[Asked, Reply]]:
    """The replies; a failure that is the server's end is raised as that."""
    while True:
        try:
            answered = next(replies, None)
        except UnavailableError:
            server.require_alive()
            raise
        if answered is None:
            return
        if answered[1].error is not None and for_now(answered[1].error):
            server.require_alive()
        yield answered


def _environment(key: str | None) -> dict[str, str]:
    """Ours, with the key; without our modules, which are of another environment. It tells nobody how it is used."""
    own = {"VLLM_NO_USAGE_STATS": "1", "NO_COLOR": "1", **({"VLLM_API_KEY": key} if key else {})}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own


@contextlib.contextmanager
def _told(variable: str, key: str) -> Iterator[str]:
    """The variable holds the key in this process, and no proxy stands between it and its own machine."""
    before = {name: os.environ.get(name) for name in (variable, "no_proxy")}
    without_proxy = before["no_proxy"] or os.environ.get("NO_PROXY")
    os.environ |= {variable: key, "no_proxy": f"{without_proxy},{HOST}" if without_proxy else HOST}
    try:
        yield variable
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {name: value} if value is not None else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])

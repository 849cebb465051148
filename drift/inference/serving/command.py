"""`vllm serve` for a model, as it is typed: what a step gives its own server, with an address and a name."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from drift.config.servers import VllmConfig
from drift.ground.errors import ConfigError
from drift.inference.served import HOST, arguments, find_vllm
from drift.tracking.models import at_hand
from drift.weights.storage.checkpoints import resolve

ASKING = ("system", "extra_body", "concurrency", "timeout_seconds", "start_timeout_seconds")
"""Settings of who asks, which a server does not have."""
_NO_FILE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Wanted:
    """What is to be served, and how."""

    model: str
    """A directory, a hub id, or a version in the registry."""
    found: at_hand.AtHand | None
    """That version."""
    config: VllmConfig
    dtype: str = "auto"
    host: str = HOST
    port: int = 8000

    @property
    def name(self) -> str:
        """What clients call it: the registered model's name, the directory's, or the hub id without revision."""
        if self.found:
            return self.found.champion.model
        path = Path(self.model).expanduser()
        return path.resolve().name if path.is_dir() else self.model.partition("@")[0]

    def words(self, place: str, executable: str = "vllm") -> list[str]:
        """The command, for the model at ``place``."""
        address = ["--host", self.host, "--port", str(self.port)]
        return [executable, "serve", place, *arguments(self.config, self.name, self.dtype), *address]


def wanted(model: str, runs: Path, config: VllmConfig, *, dtype: str, host: str, port: int) -> Wanted:
    """Raises ConfigError for settings that no server has, and what `at_hand.find` raises."""
    for key in ASKING:
        if key in config.model_fields_set:
            raise ConfigError(f"{key}: is for who asks a server, not for the server; leave it out")
    return Wanted(model, at_hand.find(model, runs), config, dtype, host, port)


def printed(wanted: Wanted) -> str:
    """The command for a shell; where a version's files are not on this machine, a line that fetches them before it.

    Raises CheckpointError for a directory or hub id that does not exist.
    """
    executable = _executable(wanted.config)
    if wanted.found is None:
        return shlex.join(wanted.words(str(resolve(wanted.model).absolute()), executable))
    if wanted.found.folder:
        return shlex.join(wanted.words(str(wanted.found.folder), executable))
    name, version = wanted.found.champion.model, str(wanted.found.champion.version)
    folder = _NO_FILE.sub("-", f"{name}-{version}")
    fetch = shlex.join(["drift", "models", "download", name, version, "--out", folder])
    return f"{fetch}\n{shlex.join(wanted.words(f'./{folder}', executable))}"


def _executable(config: VllmConfig) -> str:
    """The one that is here; where there is none, its name, for another machine."""
    try:
        return find_vllm(config, "serve")
    except ConfigError:
        return config.command or "vllm"

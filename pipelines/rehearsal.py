"""A rehearsal of the whole chain: the real configuration's wiring and permissions, in minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config import Config
from drift.errors import ConfigError
from drift.rehearsal import NAME, rehearsal_of, replaced, write_world
from pipelines.local import Runner, RunResult, run
from pipelines.runner import GPU, StepEvent


@dataclass(frozen=True)
class Rehearsal:
    """A finished rehearsal, and every key that it replaced: the configuration's value, and its own."""

    result: RunResult
    replaced: dict[str, tuple[Any, Any]]


def rehearse(
    config: Config, *, runner: Runner = "subprocess", on_event: Callable[[StepEvent], None] | None = None
) -> Rehearsal:
    """Run every planned step of ``config`` over the miniature family, in `<runs>/rehearsal`; no step from the cache.

    Raises what `pipelines.local.run` raises, so whatever returns has run as planned.
    """
    runs = Path(config.runs).resolve() / NAME
    try:
        runs.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="world-", dir=runs)
    except OSError as error:
        raise ConfigError(f"runs: {runs} cannot be written ({error.strerror}); set runs to another folder") from error
    with folder as name:
        world = Path(name) / "world"
        write_world(world)
        small = rehearsal_of(config, world, gpu=GPU.exists())
        return Rehearsal(run(small, on_event=on_event, fresh=True, runner=runner), replaced(config, small))

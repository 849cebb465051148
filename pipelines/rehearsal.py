"""A rehearsal of the whole chain: the real configuration's wiring and permissions, in minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.config.chain import Config
from drift.config.plan import plan
from drift.ground.errors import ConfigError, PipelineError
from drift.planning.rehearsal import IN_IMAGES, NAME, rehearsal_of, replaced, write_world
from pipelines.cluster.follow import ClusterRun, OnNote
from pipelines.cluster.server import Target
from pipelines.cluster.submit import submit
from pipelines.local.run import Runner, RunResult, run
from pipelines.local.runner import StepEvent
from pipelines.local.work import GPU

OnEvent = Callable[[StepEvent], None]


@dataclass(frozen=True)
class Rehearsal:
    """A finished rehearsal, its number of steps, and every key that it replaced: the configuration's value, its own."""

    result: RunResult | ClusterRun
    steps: int
    replaced: dict[str, tuple[Any, Any]]


def rehearse(
    config: Config,
    *,
    runner: Runner = "subprocess",
    target: Target | None = None,
    on_event: OnEvent | None = None,
    on_note: OnNote = lambda note: None,
) -> Rehearsal:
    """Run every planned step of ``config`` over the miniature family, in `<runs>/rehearsal`; no step from the cache.

    With a ``target`` the steps run there. Raises what `pipelines.local.run.run` or `rehearse_on` raises, so whatever
    returns has run as planned.
    """
    if target:
        return rehearse_on(config, target, on_event=on_event, on_note=on_note)
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
        result = run(small, on_event=on_event, fresh=True, runner=runner)
        return Rehearsal(result, len(result.steps), replaced(config, small))


def rehearse_on(
    config: Config,
    target: Target,
    *,
    on_event: OnEvent | None = None,
    on_note: OnNote = lambda note: None,
    poll_seconds: float = 5.0,
) -> Rehearsal:
    """Run every planned step of ``config`` on a cluster, over the world that its images carry; no step from the cache.

    Raises what `pipelines.cluster.submit` raises, and PipelineError if the run did not end well, or if one of the steps
    did not run or cannot be seen from here to have run.
    """
    small = rehearsal_of(config, IN_IMAGES, gpu=target.resources.of("arm").gpus > 0)
    planned = plan(small, local=False).tasks(registers=True)
    run = submit(small, target, caching=False, on_event=on_event, on_note=on_note, poll_seconds=poll_seconds)
    run.require_good()
    _require_seen(planned, run)
    return Rehearsal(run, len(planned), replaced(config, small))


def _require_seen(planned: list[tuple[str, str]], run: ClusterRun) -> None:
    """Every planned step by its own name and arm, as Kubeflow's list or MLflow has it."""
    finished = {(step.step, step.arm) for step in run.steps if step.state == "finished"}
    missing = [" ".join(filter(None, key)) for key in planned if key not in finished]
    if missing and run.unseen:
        raise PipelineError(
            f"the run succeeded; whether {', '.join(missing)} ran could not be seen ({run.unseen}); see {run.url}"
        )
    if missing:
        raise PipelineError(f"the run succeeded without the step {', '.join(missing)}; see {run.url}")

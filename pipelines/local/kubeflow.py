"""Kubeflow's local runner, used as it is except for the parts that a `Chain` replaces while a run goes on.

Replaced are: how a task's process is started, what Kubeflow prints (it goes to `run.log`), the order of tasks that may
come in any, the look into the cache, at whose entries one run at a time works, and the name of the output folder, which
is the same in every attempt so that a step can go on from what it had. Run folders are only continued with the same
parameters, so a name never stands for two contents.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kfp import local
from kfp.local import (
    cache,
    config,
    docker_task_handler,
    executor_input_utils,
    graph_utils,
    importer_handler,
    logging_utils,
    pipeline_orchestrator,
    subprocess_task_handler,
    task_dispatcher,
)
from kfp.local.orchestrator import enhanced_dag_orchestrator, orchestrator_utils, task_executor, task_spec_utils
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from drift.config.places import SHARDED
from drift.config.plan import MODULES
from drift.ground.errors import PipelineError
from pipelines.local.folders import TASKS
from pipelines.local.runner import Chain

LOG = "run.log"

_CHATTY = (
    cache,
    enhanced_dag_orchestrator,
    importer_handler,
    orchestrator_utils,
    pipeline_orchestrator,
    task_dispatcher,
    task_executor,
    task_spec_utils,
)


def run_pipeline(
    spec: PipelineSpec,
    arguments: Mapping[str, Any],
    chain: Chain,
    *,
    cache_root: Path,
    use_cache: bool = True,
    containers: Mapping[str, Any] | None = None,
) -> None:
    """Run a pipeline in the chain's folder, each task in a process, or in a container with the settings `containers`.

    Raises PipelineError, naming the step, if one failed.
    """
    before = config.LocalExecutionConfig.instance
    local.init(
        runner=local.SubprocessRunner(use_venv=False) if containers is None else local.DockerRunner(**containers),
        pipeline_root=str(chain.folder),
        workspace_root=str(chain.folder / "workspace"),
        enable_caching=True,
        cache_root=str(cache_root),
    )
    try:
        with _replaced_parts(chain, use_cache=use_cache):
            pipeline_orchestrator.run_local_pipeline(spec, dict(arguments))
    except RuntimeError as error:
        if chain.failure is None:
            raise PipelineError(f"{chain.folder}: {error}; see {chain.folder / LOG}") from error
        failed = chain.failure
        where = f"{failed.step} of {_named(failed.step)} '{failed.arm}'" if failed.arm else failed.step
        raise PipelineError(f"step {where}: {failed.message} (log: {failed.log})") from error
    finally:
        config.LocalExecutionConfig.instance = before


@contextlib.contextmanager
def _replaced_parts(chain: Chain, *, use_cache: bool) -> Iterator[None]:
    execute, sort = task_executor.execute_single_task, graph_utils.topological_sort_tasks
    conditions = enhanced_dag_orchestrator.ConditionEvaluator
    with contextlib.ExitStack() as stack:
        chatter = stack.enter_context(_chatter(chain.folder / LOG))
        for module in _CHATTY:
            stack.enter_context(_replaced(module, "logging", chatter))
        for owner, name, replacement in (
            (logging_utils, "local_logger_context", contextlib.nullcontext),
            (logging_utils, "indented_print", contextlib.nullcontext),
            (logging_utils, "print_horizontal_line", lambda: None),
            (logging_utils, "color_text", lambda text, color: text),
            (executor_input_utils, "get_local_pipeline_resource_name", lambda name: TASKS),
            (graph_utils, "topological_sort_tasks", lambda tasks: sort(dict(sorted(tasks.items(), key=_rank)))),
            (conditions, "_resolve_pipeline_channel", _quotable(conditions._resolve_pipeline_channel)),
            (subprocess_task_handler, "replace_python_executable", _with_executable),
            (subprocess_task_handler, "run_local_subprocess", chain.run_process),
            (docker_task_handler, "run_docker_container", chain.run_container),
            (task_executor, "execute_single_task", lambda **task: chain.execute(execute, task)),
        ):
            stack.enter_context(_replaced(owner, name, replacement))
        look = chain.look_up(cache.LocalCache.get) if use_cache else lambda self, key: None
        stack.enter_context(_replaced(cache.LocalCache, "get", look))
        yield


@contextlib.contextmanager
def _chatter(path: Path) -> Iterator[logging.Logger]:
    """A logger that writes to a file of the run and nowhere else; Kubeflow would take over the root logger."""
    logger = logging.Logger("kubeflow", logging.INFO)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()


def _named(step: str) -> str:
    """What the place of a step in a loop names."""
    return "shard" if step in SHARDED else "arm"


def _rank(named_task: tuple[str, Any]) -> int:
    """Position in the chain, so that what may come in any order comes in the same; loops and conditions last."""
    order = list(MODULES)
    step = named_task[0].replace("-", "_")
    return order.index(step) if step in order else len(order)


def _quotable(resolve: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Kubeflow evaluates a text between quotes: of a folder with an apostrophe in its name that would be false."""

    def quotable(channel: str, store: Any) -> Any:
        value = resolve(channel, store)
        return value.replace("\\", "\\\\").replace("'", "\\'") if isinstance(value, str) else value

    return quotable


def _with_executable(full_command: list[str], executable: str) -> list[str]:
    """Kubeflow would replace "python3" in every argument, also in a path or a prompt."""
    shell, flags, script, *arguments = full_command
    return [shell, flags, script.replace("python3", shlex.quote(executable)), *arguments]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)

"""The panel `Cluster`: compile, submit, and the runs that are there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drift.cli.options import (
    CLUSTER,
    Loaded,
    OnCluster,
    OnServer,
    ResourcesFile,
    Shown,
    command,
    need_kubeflow,
)
from drift.cli.run_view import RunView, show_cluster_run
from drift.cli.show import show_text

if TYPE_CHECKING:
    from pipelines.cluster.follow import ClusterRun

EXIT_INTERRUPTED = 130

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Its id, its name (the newest so called), or its page.")]
StepName = Annotated[str, typer.Argument(metavar="[STEP]", help="Default: the first that failed, else the last.")]


@command(CLUSTER, "compile")
def compile_(
    out: Annotated[Path, typer.Option("--out", "-o", help="YAML file to write; with --components, a new folder.")],
    config: Loaded,
    resources: ResourcesFile = None,
    components: Annotated[bool, typer.Option("--components", help="Each step alone, for pipelines of others.")] = False,
) -> None:
    """Compile the pipeline for a Kubeflow cluster, strictly checked."""
    need_kubeflow()
    from pipelines.cluster.compile import compile_components, compile_pipeline
    from pipelines.placement import read_resources

    if components:
        for path in compile_components(out):
            show_text(str(path))
        return
    compile_pipeline(config, out, read_resources(resources))
    show_text(str(out))


@command(CLUSTER)
def submit(
    config: Loaded,
    cluster: OnCluster,
    shown: Shown,
    run_name: Annotated[str | None, typer.Option(help="Default: the configuration's name and the time.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow the steps until the run has ended.")] = True,
    fresh: Annotated[bool, typer.Option(help="Use no cached step.")] = False,
) -> None:
    """Compile, check and run the chain on a Kubeflow cluster. The token comes from KFP_EXISTING_TOKEN."""
    target = cluster.target()
    from pipelines.cluster.submit import submit as submit_

    with comes_back(), RunView(quiet=shown.silent) as view:
        run = submit_(
            config,
            target,
            run_name=run_name,
            wait=wait,
            caching=not fresh,
            on_event=view.event,
            on_note=view.note,
        )
    _close(run, as_json=shown.as_json)


@command(CLUSTER)
def watch(
    run: RunName,
    server: OnServer,
    shown: Shown,
    every: Annotated[float, typer.Option(min=0.0, help="Seconds from one look to the next.")] = 5.0,
) -> None:
    """Follow a run on the cluster to its end, from anywhere and as often as you like.

    Exit code 0 if it ended well, also with a refused gate; 2 if it failed or was canceled.
    """
    target = server.target()
    from pipelines.cluster.follow import follow
    from pipelines.cluster.runs import find

    with comes_back(), RunView(quiet=shown.silent) as view:
        run_id = find(target, run)
        ended = follow(target, run_id, on_event=view.event, on_note=view.note, poll_seconds=every)
    _close(ended, as_json=shown.as_json)


@command(CLUSTER)
def logs(
    run: RunName,
    server: OnServer,
    step: StepName = "",
    arm: Annotated[str, typer.Option(help="Of a step in the loop.")] = "",
    tail: Annotated[int, typer.Option(min=1, help="Lines.")] = 40,
) -> None:
    """Show the end of a step's log: of the first that failed, if none is named."""
    target = server.target()
    from pipelines.cluster.runs import find
    from pipelines.cluster.runs import logs as logs_

    said = logs_(target, find(target, run), step=step, arm=arm, tail=tail)
    sys.stderr.write(f"{said.step} {said.arm}".strip() + f": {said.source}\n")
    show_text(said.text)


@command(CLUSTER)
def cancel(run: RunName, server: OnServer) -> None:
    """Stop a run on the cluster; its pods get a while to end."""
    target = server.target()
    from pipelines.cluster.runs import cancel as cancel_
    from pipelines.cluster.runs import find

    run_id = find(target, run)
    cancel_(target, run_id)
    show_text(f"{run_id}: canceling; `drift watch {run_id}` shows its end")


@command(CLUSTER)
def retry(run: RunName, server: OnServer) -> None:
    """Start what failed in an ended run again; what was finished stays."""
    target = server.target()
    from pipelines.cluster.runs import find
    from pipelines.cluster.runs import retry as retry_

    run_id = find(target, run)
    retry_(target, run_id)
    show_text(f"{run_id}: started again; `drift watch {run_id}` follows it")


@contextlib.contextmanager
def comes_back() -> Iterator[None]:
    """Ctrl-C ends the following and not the run: say how to come back."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not str(stop):
            raise
        sys.stderr.write(f"drift: {stop}\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _close(run: ClusterRun, *, as_json: bool) -> None:
    show_cluster_run(run, as_json=as_json)
    run.require_good()

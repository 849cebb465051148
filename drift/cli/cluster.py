"""The panel `Cluster`: compile, submit, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drift.cli.options import (
    CLUSTER,
    AsJson,
    CaCert,
    Experiment,
    Host,
    Loaded,
    Namespace,
    OnCluster,
    ResourcesFile,
    Shown,
    app,
    command,
    need_kubeflow,
)
from drift.cli.run_view import RunView
from drift.cli.show import show_record, show_records, show_text

schedule_app = typer.Typer(help="Scheduled runs on a Kubeflow cluster.", no_args_is_help=True)
app.add_typer(schedule_app, name="schedule", rich_help_panel=CLUSTER)

Timezone = Annotated[str, typer.Option(help="The server's time zone (its CRON_SCHEDULE_TIMEZONE).")]
ScheduleId = Annotated[str, typer.Argument(metavar="ID", help="As `drift schedule list` shows it.")]


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

    with RunView(quiet=shown.silent) as view:
        run = submit_(config, target, run_name=run_name, wait=wait, caching=not fresh, on_event=view.event)
    show_record(run, shown.as_json)


@command(CLUSTER, "create", of=schedule_app)
def schedule_create(
    cron: Annotated[str, typer.Option(help="Such as '0 0 3 * * MON': second minute hour day month weekday.")],
    config: Loaded,
    cluster: OnCluster,
    name: Annotated[str | None, typer.Option(help="Default: the configuration's name.")] = None,
    timezone: Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Run the chain at set times: one run at a time, none for times that have passed."""
    target = cluster.target()
    from pipelines.cluster.schedule import create

    show_record(create(config, target, cron=cron, name=name, timezone=timezone), as_json)


@command(CLUSTER, "list", of=schedule_app)
def schedule_list(
    config: Loaded,
    host: Host = "",
    namespace: Namespace = None,
    experiment: Experiment = None,
    ca_cert: CaCert = None,
    timezone: Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """The experiment's schedules, and when they run next."""
    need_kubeflow()
    from pipelines.cluster.schedule import schedules
    from pipelines.cluster.submit import Target

    target = Target(host, namespace, experiment, ca_cert=ca_cert)
    show_records(schedules(config, target, timezone=timezone), as_json)


@command(CLUSTER, "pause", of=schedule_app)
def schedule_pause(id: ScheduleId, host: Host = "", ca_cert: CaCert = None) -> None:
    """Let a schedule start no more runs; those at work go on."""
    _on_schedule("pause", id, host, ca_cert)


@command(CLUSTER, "resume", of=schedule_app)
def schedule_resume(id: ScheduleId, host: Host = "", ca_cert: CaCert = None) -> None:
    """Let a paused schedule start runs again."""
    _on_schedule("resume", id, host, ca_cert)


@command(CLUSTER, "delete", of=schedule_app)
def schedule_delete(id: ScheduleId, host: Host = "", ca_cert: CaCert = None) -> None:
    """Remove a schedule; runs at work go on."""
    _on_schedule("delete", id, host, ca_cert)


def _on_schedule(action: str, id: str, host: str, ca_cert: Path | None) -> None:
    need_kubeflow()
    from pipelines.cluster import schedule
    from pipelines.cluster.submit import Target

    getattr(schedule, action)(Target(host, ca_cert=ca_cert), id)
    show_text(f"{id}: {action}d")

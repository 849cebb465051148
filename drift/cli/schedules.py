"""The panel `Cluster`, `drift schedule ...`: runs at set times."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from drift.cli.options import CLUSTER, AsJson, Experiment, Loaded, OnCluster, OnServer, app, command
from drift.cli.show import show_record, show_records, show_text

schedule_app = typer.Typer(help="Scheduled runs on a Kubeflow cluster.", no_args_is_help=True)
app.add_typer(schedule_app, name="schedule", rich_help_panel=CLUSTER)

Timezone = Annotated[str, typer.Option(help="The server's time zone (its CRON_SCHEDULE_TIMEZONE).")]
ScheduleName = Annotated[str, typer.Argument(metavar="ID", help="Or its name, as `drift schedule list` shows them.")]
WhenIdle = Annotated[bool, typer.Option("--when-idle", help="Pause it and wait for its run at work.")]
Kill = Annotated[bool, typer.Option("--kill", help="Although its run at work is killed with it.")]
Cron = "Such as '0 0 3 * * MON': second minute hour day month weekday."


@command(CLUSTER, "create", of=schedule_app)
def schedule_create(
    cron: Annotated[str, typer.Option(help=Cron)],
    config: Loaded,
    cluster: OnCluster,
    name: Annotated[str | None, typer.Option(help="Default: the configuration's name.")] = None,
    timezone: Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Run the chain at set times: one run at a time, none for times that have passed.

    The compiled pipeline becomes a version of the pipeline named after the configuration.
    """
    target = cluster.target()
    from pipelines.cluster.schedule import create

    show_record(create(config, target, cron=cron, name=name, timezone=timezone), as_json)


@command(CLUSTER, "list", of=schedule_app)
def schedule_list(
    config: Loaded,
    server: OnServer,
    experiment: Experiment = None,
    timezone: Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """The experiment's schedules: when they run next, their pipeline's version, their last runs."""
    target = server.target(experiment)
    from pipelines.cluster.schedule import schedules

    show_records(schedules(config, target, timezone=timezone), as_json)


@command(CLUSTER, "update", of=schedule_app)
def schedule_update(
    id: ScheduleName,
    config: Loaded,
    cluster: OnCluster,
    version: Annotated[str | None, typer.Option(help="Back to this version, as `schedule versions` shows it.")] = None,
    cron: Annotated[str | None, typer.Option(help=f"Other times. {Cron}")] = None,
    timezone: Timezone = "UTC",
    when_idle: WhenIdle = False,
    kill: Kill = False,
    as_json: AsJson = False,
) -> None:
    """Put the configuration as it is now, or an earlier version, in a schedule's place, and say what changes.

    It gets a new id. A run at work would be killed with the old one: that is refused, unless --when-idle or --kill.
    """
    target = cluster.target()
    from pipelines.cluster.schedule import update

    updated = update(
        config,
        target,
        id,
        version=version,
        cron=cron,
        timezone=timezone,
        when_idle=when_idle,
        kill=kill,
        on_note=_say,
    )
    if as_json:
        show_record(updated, as_json)
        return
    for line in updated.changes:
        show_text(line)
    show_record(updated.schedule, as_json)


@command(CLUSTER, "versions", of=schedule_app)
def schedule_versions(id: ScheduleName, server: OnServer, as_json: AsJson = False) -> None:
    """The versions of a schedule's pipeline, the newest first."""
    target = server.target()
    from pipelines.cluster.schedule import versions_of

    show_records(versions_of(target, id), as_json)


@command(CLUSTER, "pause", of=schedule_app)
def schedule_pause(id: ScheduleName, server: OnServer) -> None:
    """Let a schedule start no more runs; the one at work goes on."""
    target = server.target()
    from pipelines.cluster.schedule import pause

    at_work = pause(target, id)
    show_text(f"{id}: paused")
    for run in at_work:
        show_text(f"its run {run} is at work and goes on")


@command(CLUSTER, "resume", of=schedule_app)
def schedule_resume(id: ScheduleName, server: OnServer) -> None:
    """Let a paused schedule start runs again."""
    target = server.target()
    from pipelines.cluster.schedule import resume

    resume(target, id)
    show_text(f"{id}: resumed")


@command(CLUSTER, "delete", of=schedule_app)
def schedule_delete(id: ScheduleName, server: OnServer, when_idle: WhenIdle = False, kill: Kill = False) -> None:
    """Remove a schedule. A run at work would be killed with it: that is refused, unless --when-idle or --kill."""
    target = server.target()
    from pipelines.cluster.schedule import delete

    delete(target, id, when_idle=when_idle, kill=kill, on_note=_say)
    show_text(f"{id}: deleted")


def _say(note: str) -> None:
    sys.stderr.write(f"{note}\n")

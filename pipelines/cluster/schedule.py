"""Scheduled runs on a Kubeflow Pipelines server: one at a time, never one for a time that has passed, each schedule on
a version of its pipeline.

A run belongs to its schedule: with the schedule Kubernetes removes the run's Workflow, at work or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import kfp

from drift.config.chain import Config
from drift.ground.errors import ConfigError
from pipelines.cluster.cron import next_times, six_fields
from pipelines.cluster.runs import runs_of
from pipelines.cluster.server import Server, Target, connected, equal
from pipelines.cluster.states import ended
from pipelines.cluster.submit import compiled, experiment_of
from pipelines.cluster.versions import Version, choose, difference, read, upload, versions

SHOWN = 3
"""Runs that a list names."""
POLL_SECONDS = 10.0

OnNote = Callable[[str], None]


@dataclass(frozen=True)
class Schedule:
    """A recurring run: its id and name, its cron expression, whether it fires and when next, its version, its runs."""

    id: str
    name: str
    cron: str
    enabled: bool
    next_times: tuple[str, ...]
    version: str = ""
    """Of its pipeline; "" for one that carries its specification itself."""
    runs: tuple[str, ...] = ()
    """Its last runs, each with its state; the newest first."""


@dataclass(frozen=True)
class Updated:
    """A schedule that took another version's place, and what changed."""

    schedule: Schedule
    changes: tuple[str, ...]


def create(config: Config, target: Target, *, cron: str, name: str | None = None, timezone: str = "UTC") -> Schedule:
    """Upload the compiled pipeline as a version of the pipeline `config.name`, and run that at set times.

    Raises ConfigError for a cron expression that never fires or a name that is taken.
    """
    expression = six_fields(cron)
    times, called = next_times(expression, timezone), name or config.name
    server = Server(target)
    with connected(target) as client, compiled(config, target) as package:
        experiment = client.create_experiment(experiment_of(config, target), namespace=target.namespace)
        if any(one["display_name"] == called for one in _all(server, experiment.experiment_id)):
            raise ConfigError(
                f"--name: a schedule '{called}' exists already; update or delete it, or give another name"
            )
        version = upload(server, client, config.name, package)
        made = _made(client, experiment.experiment_id, called, expression, version, target)
    return Schedule(made, called, expression, True, times, version.name)


def schedules(config: Config, target: Target, *, timezone: str = "UTC") -> list[Schedule]:
    """The experiment's recurring runs; none where there is no such experiment. Makes nothing."""
    server = Server(target)
    query = {"filter": equal("display_name", experiment_of(config, target)), "namespace": target.namespace}
    experiment = next(server.pages("/experiments", "experiments", query), None)
    if experiment is None:
        return []
    return [_schedule(server, one, timezone) for one in _all(server, experiment["experiment_id"])]


def pause(target: Target, schedule: str) -> list[str]:
    """Stop it from firing; the runs that are at work, which go on."""
    server = Server(target)
    found = _find(server, schedule)
    _switch(server, found, "disable")
    return _at_work(server, found)


def resume(target: Target, schedule: str) -> None:
    """Let it fire again, at its next time."""
    server = Server(target)
    _switch(server, _find(server, schedule), "enable")


def delete(
    target: Target,
    schedule: str,
    *,
    when_idle: bool = False,
    kill: bool = False,
    on_note: OnNote = lambda note: None,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Remove it. A run at work would be killed with it: raises ConfigError then, unless one of the two is said.

    `when_idle`: pause it, wait for the run's end, then delete. `kill`: do not ask.
    """
    server = Server(target)
    found = _find(server, schedule)
    if not kill:
        _wait_or_refuse(server, found, "deleting", when_idle, on_note, poll_seconds)
    _remove(server, found, kill=kill)


def update(
    config: Config,
    target: Target,
    schedule: str,
    *,
    version: str | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    when_idle: bool = False,
    kill: bool = False,
    on_note: OnNote = lambda note: None,
    poll_seconds: float = POLL_SECONDS,
) -> Updated:
    """Put the configuration as it is now, or an earlier `version` of the pipeline, in the place of the schedule's.

    The API cannot change a recurring run: a new one is made and the old one deleted, which would kill its run at work
    as `delete` does. Raises ConfigError then, for an unknown version, and where nothing would change.
    """
    server = Server(target)
    old = _find(server, schedule)
    expression = six_fields(cron) if cron else _cron(old)
    times = next_times(six_fields(expression), timezone)
    with connected(target) as client:
        new = _new_version(config, server, client, old, version)
        if new.id == _version_id(old) and expression == _cron(old):
            raise ConfigError(f"schedule {old['display_name']}: it is on version {new.name} already; nothing changed")
        changes = difference(_spec(server, old), read(server, new.pipeline_id, new.id))
        if not kill:
            _wait_or_refuse(server, old, "updating", when_idle, on_note, poll_seconds)
        enabled = old.get("status") != "DISABLED"
        kept = _kept(old, target)
        made = _made(client, old["experiment_id"], old["display_name"], expression, new, kept, enabled=enabled)
        _remove(server, old, kill=kill)
    return Updated(
        Schedule(made, old["display_name"], expression, enabled, times if enabled else (), new.name), changes
    )


def versions_of(target: Target, schedule: str) -> list[Version]:
    """The versions of the schedule's pipeline, the newest first."""
    server = Server(target)
    found = _find(server, schedule)
    pipeline_id = (found.get("pipeline_version_reference") or {}).get("pipeline_id")
    return versions(server, pipeline_id) if pipeline_id else []


def _made(
    client: kfp.Client,
    experiment_id: str,
    name: str,
    cron: str,
    version: Version,
    target: Target,
    *,
    enabled: bool = True,
) -> str:
    made = client.create_recurring_run(
        experiment_id=experiment_id,
        job_name=name,
        cron_expression=cron,
        max_concurrency=1,
        no_catchup=True,
        pipeline_id=version.pipeline_id,
        version_id=version.id,
        enabled=enabled,
        pipeline_root=target.pipeline_root,
        service_account=target.service_account,
    )
    return str(made.recurring_run_id)


def _kept(old: Mapping[str, Any], target: Target) -> Target:
    """The target, with what the old schedule had where nothing else is said."""
    root = target.pipeline_root or (old.get("runtime_config") or {}).get("pipeline_root") or None
    return replace(
        target, service_account=target.service_account or old.get("service_account") or None, pipeline_root=root
    )


def _new_version(
    config: Config, server: Server, client: kfp.Client, old: Mapping[str, Any], version: str | None
) -> Version:
    if version is None:
        with compiled(config, server.target) as package:
            return upload(server, client, config.name, package)
    pipeline_id = (old.get("pipeline_version_reference") or {}).get("pipeline_id")
    if not pipeline_id:
        raise ConfigError(
            "--version: this schedule carries its specification itself; update it without --version first"
        )
    return choose(server, pipeline_id, version)


def _spec(server: Server, schedule: Mapping[str, Any]) -> Mapping[str, Any]:
    of = schedule.get("pipeline_version_reference") or {}
    if not of.get("pipeline_version_id"):
        return schedule.get("pipeline_spec") or {}
    return read(server, of["pipeline_id"], of["pipeline_version_id"])


def _wait_or_refuse(
    server: Server, schedule: Mapping[str, Any], doing: str, when_idle: bool, on_note: OnNote, poll_seconds: float
) -> None:
    """Until none of its runs is at work; it starts none meanwhile. Raises ConfigError if not to wait."""
    at_work = _at_work(server, schedule)
    if at_work and not when_idle:
        raise ConfigError(
            f"schedule {schedule['display_name']}: {doing} it would kill its run {at_work[0]}, which is at work; "
            "--when-idle pauses it and waits, --kill does not"
        )
    if when_idle:
        _switch(server, schedule, "disable")
    for run in _at_work(server, schedule):
        on_note(f"paused; waiting for its run {run}")
    while _at_work(server, schedule):
        time.sleep(poll_seconds)


def _remove(server: Server, schedule: Mapping[str, Any], *, kill: bool) -> None:
    """Delete it. A run that has begun just now is left to itself by servers that can (kubeflow/pipelines 2.17,
    resource_manager.go, DeleteJob), which others pass over."""
    query = {} if kill else {"propagation_policy": "ORPHAN"}
    server.ask("DELETE", f"/recurringruns/{schedule['recurring_run_id']}", query)


def _switch(server: Server, schedule: Mapping[str, Any], action: str) -> None:
    server.ask("POST", f"/recurringruns/{schedule['recurring_run_id']}:{action}")


def _at_work(server: Server, schedule: Mapping[str, Any]) -> list[str]:
    runs = runs_of(server, schedule["recurring_run_id"])
    return [str(run["run_id"]) for run in runs if ended(run) is None]


def _find(server: Server, given: str) -> Mapping[str, Any]:
    """The schedule with this id, or this name. Raises ConfigError if there is none, or several are called so."""
    found = [one for one in _all(server) if given in (one["recurring_run_id"], one["display_name"])]
    if len(found) != 1:
        ids = ", ".join(one["recurring_run_id"] for one in found)
        raise ConfigError(
            f"ID: '{given}' is {'several schedules: ' + ids if found else 'no schedule'}; see `schedule list`"
        )
    return found[0]


def _all(server: Server, experiment_id: str | None = None) -> Iterator[dict[str, Any]]:
    query = {"experiment_id": experiment_id} if experiment_id else {"namespace": server.target.namespace}
    return server.pages("/recurringruns", "recurringRuns", query)


def _cron(schedule: Mapping[str, Any]) -> str:
    return str(((schedule.get("trigger") or {}).get("cron_schedule") or {}).get("cron") or "")


def _version_id(schedule: Mapping[str, Any]) -> str | None:
    return (schedule.get("pipeline_version_reference") or {}).get("pipeline_version_id")


def _schedule(server: Server, said: Mapping[str, Any], timezone: str) -> Schedule:
    """A recurring run of the server; an interval, or an expression of someone else's, has no times here."""
    cron, enabled = _cron(said), said.get("status") == "ENABLED"
    times: tuple[str, ...] = ()
    if enabled and cron:
        try:
            times = next_times(six_fields(cron), timezone)
        except ConfigError as error:
            times = (str(error),)
    of = said.get("pipeline_version_reference") or {}
    known = versions(server, of["pipeline_id"]) if of.get("pipeline_id") else []
    version = next((one.name for one in known if one.id == of.get("pipeline_version_id")), "")
    runs = list(zip(range(SHOWN), runs_of(server, said["recurring_run_id"]), strict=False))
    lines = tuple(f"{run['run_id']} {ended(run) or run.get('state', '')}" for _, run in runs)
    return Schedule(said["recurring_run_id"], said["display_name"], cron, enabled, times, version, lines)

"""Scheduled runs on a Kubeflow Pipelines server: one at a time, and never one for a time that has passed.

A cron expression has six fields there, seconds first, in the server's time zone (CRON_SCHEDULE_TIMEZONE, by default
UTC). The server takes any text, and a wrong one never fires; so it is checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import kfp
from croniter import CroniterError, croniter

from drift.config.chain import Config
from drift.ground.errors import ConfigError
from pipelines.cluster.submit import Target, compiled, connected, experiment_of

PAGE = 100


@dataclass(frozen=True)
class Schedule:
    """A recurring run: its id and name, its cron expression, whether it fires, and when it does next."""

    id: str
    name: str
    cron: str
    enabled: bool
    next_times: tuple[str, ...]


def create(config: Config, target: Target, *, cron: str, name: str | None = None, timezone: str = "UTC") -> Schedule:
    """Upload the compiled pipeline as a recurring run.

    Raises ConfigError for a cron expression that never fires or a name that is taken.
    """
    expression = six_fields(cron)
    times, called = next_times(expression, timezone), name or config.name
    with connected(target) as client, compiled(config, target) as package:
        experiment = client.create_experiment(experiment_of(config, target), namespace=target.namespace)
        if any(run.display_name == called for run in _recurring_runs(client, experiment.experiment_id)):
            raise ConfigError(f"--name: a schedule '{called}' exists already; delete it, or give another name")
        made = client.create_recurring_run(
            experiment_id=experiment.experiment_id,
            job_name=called,
            cron_expression=expression,
            max_concurrency=1,
            no_catchup=True,
            pipeline_package_path=str(package),
            pipeline_root=target.pipeline_root,
            service_account=target.service_account,
        )
    return Schedule(made.recurring_run_id, called, expression, True, times)


def schedules(config: Config, target: Target, *, timezone: str = "UTC") -> list[Schedule]:
    """The recurring runs of the experiment."""
    with connected(target) as client:
        experiment = client.create_experiment(experiment_of(config, target), namespace=target.namespace)
        return [_schedule(run, timezone) for run in _recurring_runs(client, experiment.experiment_id)]


def pause(target: Target, schedule_id: str) -> None:
    """Stop it from firing; runs at work go on."""
    with connected(target) as client:
        client.disable_recurring_run(schedule_id)


def resume(target: Target, schedule_id: str) -> None:
    """Let it fire again, at its next time."""
    with connected(target) as client:
        client.enable_recurring_run(schedule_id)


def delete(target: Target, schedule_id: str) -> None:
    """Remove it; runs at work go on."""
    with connected(target) as client:
        client.delete_recurring_run(schedule_id)


def six_fields(cron: str) -> str:
    """The expression with its seconds; five fields get second 0. Raises ConfigError for one the server cannot read."""
    fields = cron.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    wrong = [field for field in fields if not re.fullmatch(r"[0-9A-Za-z*/,?-]+", field) or re.search("[LWH#]$", field)]
    if len(fields) != 6 or wrong or re.search(r"(^|[,-])7\b", fields[5]):
        raise ConfigError(
            f"--cron: '{cron}' has no meaning to Kubeflow; write for example '0 0 3 * * MON' (with seconds)"
        )
    return " ".join(fields)


def next_times(cron: str, timezone: str, count: int = 3) -> tuple[str, ...]:
    """The next times it fires, with their offset. Raises ConfigError if there are none, or for an unknown zone."""
    try:
        iterator = croniter(cron, datetime.now(ZoneInfo(timezone)), second_at_beginning=True)
        return tuple(iterator.get_next(datetime).isoformat(sep=" ", timespec="minutes") for _ in range(count))
    except (ZoneInfoNotFoundError, ValueError) as error:
        if isinstance(error, CroniterError):
            raise ConfigError(f"--cron: '{cron}' never fires ({error}); correct it") from None
        raise ConfigError(f"--timezone: no zone '{timezone}'; write for example Europe/Berlin") from None


def _recurring_runs(client: kfp.Client, experiment_id: str) -> list[Any]:
    runs: list[Any] = []
    token = ""
    while True:
        page = client.list_recurring_runs(page_token=token, page_size=PAGE, experiment_id=experiment_id)
        runs += page.recurring_runs or []
        token = page.next_page_token or ""
        if not token:
            return runs


def _schedule(run: Any, timezone: str) -> Schedule:
    """A recurring run of the server; an interval, or an expression of someone else's, has no times here."""
    cron = run.trigger.cron_schedule.cron if run.trigger and run.trigger.cron_schedule else ""
    enabled = run.status == "ENABLED"
    times: tuple[str, ...] = ()
    if enabled and cron:
        try:
            times = next_times(six_fields(cron), timezone)
        except ConfigError as error:
            times = (str(error),)
    return Schedule(run.recurring_run_id, run.display_name, cron, enabled, times)

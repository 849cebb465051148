"""Cron expressions as Kubeflow reads them: six fields, seconds first, in the server's time zone.

The zone is the server's CRON_SCHEDULE_TIMEZONE, by default UTC. Kubeflow 2.17 refuses an expression it cannot read and
takes one that never fires; both are found here before anything is sent.
"""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter

from drift.ground.errors import ConfigError


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

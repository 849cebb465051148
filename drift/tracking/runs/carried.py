"""What a cached step did when it worked, from the journal of the run that it worked in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drift.tracking.telling.journal import JOURNAL, Event, read

NOT_CARRIED = ("ended", "cached", "repeated")
"""How it went then is not how it goes now."""


def journal_of(output: Path) -> str:
    """The folder of the run that wrote `output`; '' if it has no journal."""
    return next((str(folder) for folder in output.parents if (folder / JOURNAL).is_file()), "")


def carried(folder: str, upstream: str, cached: Event) -> Iterator[Event]:
    """The events of the step's last attempt in the run of `folder`, as those of the step of the event `cached`.

    Which of its files are uploaded is said by the run that they are carried to.
    """
    events = [event for event, _ in read(Path(folder)) if event.get("key") == upstream] if folder else []
    starts = [position for position, event in enumerate(events) if event["event"] == "started"]
    for event in events[starts[-1] :] if starts else []:
        if event["event"] not in NOT_CARRIED:
            yield event | {name: cached[name] for name in ("key", "step", "arm", "upload") if name in cached}

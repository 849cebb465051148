"""`python -m tests.faults`: the campaign, or a part of it, and the table into docs/reliability.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.campaign import Campaign
from tests.faults.commands import COMMANDS, Command
from tests.faults.faults import FAULTS, Fault, may_mount
from tests.faults.table import Tried, summary, table, write


def main() -> None:
    """Print every try, then the table; exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the cheap commands, one variant of each fault")
    parser.add_argument("--size", type=int, default=10, help="tries of a cell at most (default 10)")
    parser.add_argument("--command", action="append", help="only commands whose name begins so")
    parser.add_argument("--fault", action="append", help="only faults whose name begins so")
    parser.add_argument("--jobs", type=int, default=2, help="commands at once")
    parser.add_argument("--write", action="store_true", help="the table into docs/reliability.md")
    given = parser.parse_args()
    cheap = given.small and not given.command
    commands = [one for one in COMMANDS if _wanted(one.name, given.command) and (one.cheap or not cheap)]
    faults = [one for one in FAULTS if _wanted(one.name, given.fault)]
    size = 1 if given.small else given.size
    if not may_mount():
        print("disk full: skipped, since only root may mount a disk")
    with tempfile.TemporaryDirectory() as folder, Campaign(Path(folder), size) as campaign:
        tried = list(_printed(campaign, commands, faults, given.jobs))
    text = table(tried, [one.name for one in commands], [one.name for one in faults])
    print(f"\n{text}\n\n{summary(tried)}")
    if given.write:
        write(f"{text}\n\n{summary(tried)}.")
    sys.exit(any(one.wrong for one in tried))


def _wanted(name: str, begins: list[str] | None) -> bool:
    return not begins or name.startswith(tuple(begins))


def _printed(campaign: Campaign, commands: list[Command], faults: list[Fault], jobs: int) -> Iterator[Tried]:
    began = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        for row in [pool.submit(campaign.row, command, faults, _print) for command in commands]:
            yield from row.result()
    print(f"{time.monotonic() - began:.0f} s")


def _print(one: Tried) -> None:
    print(f"{one.command} | {one.fault} {one.variant}: {'; '.join(one.wrong) or 'right'}", flush=True)


if __name__ == "__main__":
    main()
